// Comes in: the state, and how many alerts are raised. Goes out: the title of the tab.
import type { State } from '../model/state';

const NAME = 'psqlisten2websocket';

/** Begins with what is wrong: in a row of tabs only the beginning is visible. */
export function titleOf(state: State, alerts = 0): string {
  if (state.connection.state !== 'open') return `(off) ${NAME}`;
  if (state.server?.database.state !== 'listening') return `(database off) ${NAME}`;
  return alerts > 0 ? `(${alerts}!) ${NAME}` : NAME;
}
