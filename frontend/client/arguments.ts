// Comes in: what a caller gave connect or rows. Goes out: the address, whose query has the subscription, and the options.
import type { Environment } from './environment';
import type { Address, Subscription } from './options';

const FIELDS = ['table', 'action', 'filter', 'columns'] as const;

/** Throws TypeError for an option that is not among `names`, and for an invalid URL. */
export function readArguments<Given extends Subscription>(
  caller: string,
  names: readonly string[],
  first: Address | Given | undefined,
  second: Given | undefined,
  environment: Environment,
): { address: URL; options: Given } {
  const isAddress = first === undefined || typeof first === 'string' || 'href' in first;
  const options = (isAddress ? second : (first as Given)) ?? ({} as Given);
  const unknown = Object.keys(options).filter((name) => !names.includes(name));
  if (unknown.length) throw new TypeError(`unknown option ${unknown.join(', ')}; ${caller} takes ${names.join(', ')}`);
  return { address: addressOf(isAddress ? ((first as Address) ?? '/ws') : '/ws', options, environment), options };
}

function addressOf(url: Address, options: Subscription, environment: Environment): URL {
  const address = new URL(typeof url === 'string' ? url : url.href, environment.page);
  address.protocol = address.protocol.replace('http', 'ws');
  if (address.pathname === '/') address.pathname = '/ws'; // the server's address alone, where the dashboard is
  address.hash = ''; // new WebSocket refuses one
  for (const name of FIELDS) {
    for (const value of [options[name] ?? []].flat()) address.searchParams.append(name, value);
  }
  return address;
}
