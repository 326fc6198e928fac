// Comes in: an action. Goes out: its sign and letter, so that its colour is never alone.
import type { Action } from '../feed/protocol';

const SIGNS: Record<Action, string> = { INSERT: '+ I', UPDATE: '~ U', DELETE: '− D', TRUNCATE: '∅ T' };

export function signOf(action: Action | null): string {
  return action === null ? '' : SIGNS[action];
}
