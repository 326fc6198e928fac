// Comes in: the state and the reader's alerts. Goes out: the alerts that are raised, one sentence each.
import type { Alert } from '../model/choices';
import { rateText } from '../values/format';
import { RATE_SECONDS, serverNow, shownName } from './view_model';
import { ACTIONS } from '../feed/protocol';
import { finest, type State } from '../model/state';

export interface Raised {
  readonly alert: Alert;
  readonly text: string;
}

export function alertName(alert: Alert): string {
  const action = ACTIONS[alert.action] ?? '';
  if (alert.kind === 'above') return `more than ${alert.perSecond} ${action}/s`;
  return `no ${action}${alert.table === null ? '' : ` in ${shownName(alert.table, undefined)}`} for ${durationText(alert.seconds)}`;
}

/** Only what is certain: without data nothing is raised. */
export function raisedOf(state: State, alerts: readonly Alert[], now: number): readonly Raised[] {
  if (alerts.length === 0 || state.connection.state !== 'open') return [];
  const timeline = finest(state);
  const last = timeline.stepOf(serverNow(state, now)) - 1;
  return alerts.flatMap((alert): Raised[] => {
    if (alert.kind === 'above') {
      const rate = timeline.rate(null, last, RATE_SECONDS / timeline.stepSeconds, alert.action);
      return rate !== null && rate > alert.perSecond
        ? [{ alert, text: `${ACTIONS[alert.action]} at ${rateText(rate)}/s, above ${alert.perSecond}/s` }]
        : [];
    }
    // A timeline that reaches back far enough; the step that is not yet over counts, too.
    const reach = state.timelines.find(({ stepSeconds, capacity }) => stepSeconds * capacity >= alert.seconds);
    if (reach === undefined) return [];
    const newest = reach.stepOf(serverNow(state, now));
    for (let step = newest; step > newest - Math.ceil(alert.seconds / reach.stepSeconds); step--) {
      if (reach.count(alert.table, step, alert.action) !== 0) return [];
    }
    return [{ alert, text: alertName(alert) }];
  });
}

/** 90 s, 5 min, 2 h */
export function durationText(seconds: number): string {
  if (seconds % 3600 === 0) return `${seconds / 3600} h`;
  return seconds % 60 === 0 ? `${seconds / 60} min` : `${seconds} s`;
}
