// Comes in: a row. Goes out: all its values, column by column.
import type { Columns, Json } from '../values/json';
import { type Change, contentOf, type Foreign } from '../model/tail_entries';

export interface ColumnDetail {
  readonly name: string;
  /** Undefined where there is none: before an INSERT, after a DELETE, or because the trigger does not send it. */
  readonly before: Json | undefined;
  readonly after: Json | undefined;
  readonly isChanged: boolean;
}

export interface Detail {
  readonly content: Change | Foreign;
  readonly columns: readonly ColumnDetail[];
  /** An UPDATE whose trigger does not send the old values. */
  readonly lacksOld: boolean;
  readonly old: Columns | null;
  readonly data: Columns | null;
}

export function detailOf(text: string): Detail {
  const content = contentOf(text);
  if (content.kind === 'foreign') return { content, columns: [], lacksOld: false, old: null, data: null };
  const after = content.action === 'DELETE' ? null : content.data;
  const before = beforeOf(content);
  const names = [...new Set([...(after?.keys() ?? []), ...(before?.keys() ?? [])])];
  return {
    content,
    columns: names.map((name) => ({
      name,
      before: before?.get(name),
      after: after?.get(name),
      isChanged: content.action !== 'UPDATE' || (content.old?.has(name) ?? false),
    })),
    lacksOld: content.action === 'UPDATE' && content.old === null && content.cut === null,
    old: before,
    data: after,
  };
}

/** The whole row as it was. */
function beforeOf({ action, data, old }: Change): Columns | null {
  if (action === 'DELETE') return data;
  if (action !== 'UPDATE' || old === null || data === null) return null;
  return new Map([...data].map(([name, value]) => [name, old.has(name) ? (old.get(name) as Json) : value]));
}
