/** How a server is reached. */

import { connect } from 'node:net';
import type { Interceptor, Transport } from '@connectrpc/connect';
import { createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { HaulError } from './errors.js';
import { closed } from './retries.js';

/** How a server is reached, and who calls. */
export interface Options {
  /** Goes to this machine or over TLS, and nowhere else. */
  token?: string;
  /** The tenant that the calls are about. */
  tenant?: string;
  /** The certificates of the authorities that are trusted, as PEM; those of the system if it is left out. */
  ca?: string | Buffer;
  /** The certificate and the key of the client, as PEM. */
  cert?: string | Buffer;
  key?: string | Buffer;
  /** The deadline of calls with one answer: 30 s. */
  timeoutMs?: number;
  /** How long a server that was reached once is waited for when it is away: 5 min. A new one: 10 s at most. */
  patienceMs?: number;
}

/** A transport, and what ends its connection. */
export interface Reached {
  transport: Transport;
  close(): void;
}

export const TIMEOUT_MS = 30_000;
/**
 * A server that is silent for the first while a call is open is asked, and given up after the second: it may be gone
 * without a word, and a watch would wait for ever.
 */
const PINGS = { pingIntervalMs: 30_000, pingTimeoutMs: 20_000 };

/** Reads an address: `host:port`, `http://host:port`, `https://host:port` or `unix:/path`. */
export function reach(address: string, options: Options, end: AbortSignal): Reached {
  const socket = address.startsWith('unix:') ? address.slice('unix:'.length).replace(/^\/\/(?=\/)/, '') : undefined;
  const url = socket === undefined ? parse(address) : new URL('http://localhost');
  const isSecure = url.protocol === 'https:';
  if (!isSecure && (options.ca || options.cert || options.key)) {
    throw new TypeError(`certificates need TLS, and '${address}' does not begin with 'https://'`);
  }
  if (!options.cert !== !options.key) throw new TypeError('cert and key go together; give both or neither');
  if (options.token !== undefined && !isSecure && socket === undefined && !isLoopback(url.hostname)) {
    throw new TypeError(`a token must not go to '${address}' without TLS, since whoever is on the way could read it`);
  }
  const { ca, cert, key } = options;
  const sessionManager = new Http2SessionManager(url.origin, PINGS, {
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(socket !== undefined && { createConnection: () => connect(socket) }),
  });
  const inner = createGrpcTransport({ baseUrl: url.origin, sessionManager, interceptors: [who(options)] });
  return { transport: withDeadlines(inner, options.timeoutMs ?? TIMEOUT_MS, end), close: () => sessionManager.abort() };
}

function parse(address: string): URL {
  const url = tryParse(address.includes('://') ? address : `http://${address}`);
  if (!url || !['http:', 'https:'].includes(url.protocol) || url.pathname !== '/') {
    throw new TypeError(`'${address}' is not the address of a server; write it like '127.0.0.1:4285'`);
  }
  // The standard port of the scheme reads as none.
  if (url.port === '' && !/:\d+\/?$/.test(address)) url.port = '4285';
  return url;
}

function tryParse(text: string): URL | undefined {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** Says with each call who calls. */
function who({ token, tenant }: Options): Interceptor {
  return (next) => (request) => {
    if (token !== undefined) request.header.set('authorization', `Bearer ${token.trim()}`);
    if (tenant !== undefined) request.header.set('haul-tenant', tenant);
    return next(request);
  };
}

/**
 * Gives calls with one answer a deadline, and their errors a type. After the `end` of the client it makes no calls: the
 * connection would be made again by them, and be held open by nobody.
 */
function withDeadlines(inner: Transport, timeoutMs: number, end: AbortSignal): Transport {
  return {
    async unary(method, signal, own, header, input, context) {
      if (end.aborted) throw closed();
      try {
        return await inner.unary(method, signal, own ?? timeoutMs, header, input, context);
      } catch (thrown) {
        throw signal?.aborted ? thrown : HaulError.of(thrown);
      }
    },
    async stream(method, signal, own, header, input, context) {
      if (end.aborted) throw closed();
      return await inner.stream(method, signal, own, header, input, context);
    },
  };
}
