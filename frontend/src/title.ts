// Comes in: the state. Goes out: the title of the tab.
import type { State } from './state';

const NAME = 'psqlisten2websocket';

/** Says first what is off: in a row of tabs only the beginning is seen. */
export function titleOf(state: State): string {
  if (state.connection.state !== 'open') return `(off) ${NAME}`;
  return state.server?.database.state === 'listening' ? NAME : `(database off) ${NAME}`;
}
