// The client of psqlisten2websocket: see "In your page" in its README. MIT License.
// client/arguments.ts
var FIELDS = [
	"table",
	"action",
	"filter",
	"columns"
];
/** Throws TypeError for an option that is not among `names`, and for an invalid URL. */
function readArguments(caller, names, first, second, environment) {
	const isAddress = first === void 0 || typeof first === "string" || "href" in first;
	const options = (isAddress ? second : first) ?? {};
	const unknown = Object.keys(options).filter((name) => !names.includes(name));
	if (unknown.length) throw new TypeError(`unknown option ${unknown.join(", ")}; ${caller} takes ${names.join(", ")}`);
	return {
		address: addressOf(isAddress ? first ?? "/ws" : "/ws", options, environment),
		options
	};
}
function addressOf(url, options, environment) {
	const address = new URL(typeof url === "string" ? url : url.href, environment.page);
	address.protocol = address.protocol.replace("http", "ws");
	if (address.pathname === "/") address.pathname = "/ws";
	address.hash = "";
	for (const name of FIELDS) for (const value of [options[name] ?? []].flat()) address.searchParams.append(name, value);
	return address;
}
// client/environment.ts
var RUNTIME = {
	page: globalThis.location?.href,
	get WebSocket() {
		return globalThis.WebSocket;
	},
	fetch: globalThis.fetch && ((url, options) => fetch(url, options)),
	clock: {
		now: () => Date.now(),
		after: (ms, callback) => {
			const timer = setTimeout(callback, ms);
			return () => clearTimeout(timer);
		}
	},
	random: Math.random,
	report: (error) => typeof reportError === "function" ? reportError(error) : console.error(error),
	window: "addEventListener" in globalThis ? globalThis : void 0
};
var DELAY_LIMIT_MS = 1e4;
/**
* Delays for ever. The first attempt is made at once: most lost connections are lost alone. The other delays are each
* drawn evenly from 0 to a limit that doubles up to DELAY_LIMIT_MS ("full jitter", AWS Architecture Blog, Exponential
* Backoff And Jitter): when a server restarts, its pages come back spread over time, not all at once.
*/
function* backoff(random) {
	yield 0;
	for (let limit = 300;; limit = Math.min(limit * 2, DELAY_LIMIT_MS)) yield Math.round(random() * limit);
}
// src/feed/socket.ts
/**
* An attempt that the server does not answer in this time is given up. Longer than the 10 s that the server waits for a
* token, so that it can say that one is missing.
*/
var ANSWER_LIMIT_MS = 12e3;
/** The browser's code of a connection that was lost without a close frame (RFC 6455, 7.1.5). */
var NO_CLOSE = 1006;
var ReconnectingSocket = class {
	#options;
	#delays;
	#socket = null;
	#connection = { state: "closed" };
	#cancelTimer = () => {};
	#announcedDelayMs = null;
	#openedAt = Infinity;
	constructor(options) {
		this.#options = options;
		this.#delays = backoff(options.random);
	}
	/** Connects, unless it is open or connecting. While it waits for its next attempt, this is that attempt. */
	connect() {
		if (this.#socket !== null) return;
		this.#cancelTimer();
		const socket = this.#options.open();
		this.#socket = socket;
		socket.onmessage = (event) => this.#receive(event.data);
		socket.onclose = ({ code, reason }) => this.#lost(code, reason);
		socket.onerror = () => {};
		this.#giveUpAfter(ANSWER_LIMIT_MS);
		this.#enter({ state: "connecting" });
	}
	/** What the server announced before it goes away: its own delay for the one next attempt. */
	expectClose(reconnectInMs) {
		this.#announcedDelayMs = reconnectInMs;
	}
	/** Leaves this connection as if it were lost, so that the next one comes after the next delay. */
	reconnect(reason) {
		this.#lost(NO_CLOSE, reason);
	}
	close() {
		this.#leaveSocket();
		this.#openedAt = Infinity;
		this.#enter({ state: "closed" });
	}
	#receive(data) {
		this.#giveUpAfter(this.#options.silenceLimitMs);
		if (this.#connection.state !== "open") {
			this.#openedAt = this.#options.clock.now();
			this.#enter({ state: "open" });
		}
		if (this.#socket !== null) this.#options.onText(String(data));
	}
	#lost(code, reason) {
		this.#leaveSocket();
		const now = this.#options.clock.now();
		if (now - this.#openedAt >= 5e3) this.#delays = backoff(this.#options.random);
		this.#openedAt = Infinity;
		const delay = this.#announcedDelayMs ?? this.#delays.next().value;
		this.#announcedDelayMs = null;
		this.#cancelTimer = this.#options.clock.after(delay, () => this.connect());
		this.#enter({
			state: "waiting",
			retryAt: now + delay,
			code,
			reason
		});
	}
	#giveUpAfter(ms) {
		this.#cancelTimer();
		if (ms < Infinity) this.#cancelTimer = this.#options.clock.after(ms, () => this.#lost(NO_CLOSE, ""));
	}
	#leaveSocket() {
		this.#cancelTimer();
		if (this.#socket === null) return;
		this.#socket.onopen = null;
		this.#socket.onmessage = null;
		this.#socket.onclose = null;
		this.#socket.close();
		this.#socket = null;
	}
	#enter(connection) {
		this.#connection = connection;
		this.#options.onConnection(connection);
	}
};
// src/values/assert_never.ts
/** Makes a forgotten case of a union a compile error, and a lying type a loud one. */
function assertNever(value) {
	throw new Error(`unhandled case: ${JSON.stringify(value)}`);
}
// client/options.ts
/** The server refuses what it was asked for: `message` says what to do. */
var FeedError = class extends Error {
	code;
	isFinal;
	name = "FeedError";
	constructor(code, message, isFinal) {
		super(message);
		this.code = code;
		this.isFinal = isFinal;
	}
};
// client/probe.ts
/** What our server answers where a WebSocket would open, and what others do (RFC 9110, 15.5.22). */
var NOT_A_WEBSOCKET = "not_a_websocket";
var UPGRADE_REQUIRED = 426;
/** 4xx, but not the caller's mistake: later the same request may be accepted. */
var PASSING_STATUSES = [
	408,
	425,
	429
];
/** Null without an answer, which includes one that a page of another origin may not read. */
async function probe(socket, fetch, signal) {
	const address = new URL(socket);
	address.protocol = address.protocol.replace("ws", "http");
	try {
		return await read(await fetch(address.href, {
			redirect: "manual",
			cache: "no-store",
			signal
		}), address);
	} catch {
		return null;
	}
}
async function read(response, address) {
	const { status } = response;
	if (status < 400) {
		const answer = status ? `the status ${status}` : "a redirect";
		return {
			code: "not_a_feed",
			message: `there is no feed at ${address.origin}${address.pathname}, which answers with ${answer}: write http://HOST:PORT, or ws://HOST:PORT/BASE_PATH/ws`,
			isLasting: true
		};
	}
	const { code, message } = await errorIn(response);
	if (code === NOT_A_WEBSOCKET || status === UPGRADE_REQUIRED) return {
		code,
		message: "the server answers, but no WebSocket opens: does a proxy pass on Upgrade?",
		isLasting: false
	};
	return {
		code,
		message,
		isLasting: status < 500 && !PASSING_STATUSES.includes(status)
	};
}
/** The error in the body, `{"error": {"code", "message"}}`; else the status. */
async function errorIn(response) {
	const { code, message } = await response.json().then((body) => Object(body?.error), () => ({}));
	if (typeof code === "string" && typeof message === "string") return {
		code,
		message
	};
	return {
		code: `http_${response.status}`,
		message: `the server answers with the status ${response.status}`
	};
}
// client/follow.ts
var READ_AGAIN = "read the tables you follow again; the feed continues from here";
/** The server's close codes (RFC 6455, 7.4.1; the range for private use) for refusals that hold for later attempts. */
var POLICY_VIOLATION = 1008;
var SIGN_IN = 4401;
var NO_CLOSE_FRAME = 1006;
var NO_TOKEN = "the server requires a token: give one as an option";
function follow(address, options, environment, reader) {
	const { onChange, onGap, onState, onError, parse = JSON.parse, since, token } = options;
	const WebSocket = options.WebSocket ?? environment.WebSocket;
	if (!WebSocket) throw new TypeError("there is no WebSocket here: give one as an option, such as that of the package ws");
	let cursor = since ?? address.searchParams.get("since");
	let begin = null;
	let hasUnrecorded = false;
	let isOpen = false;
	let lostAt = null;
	let attempts = 0;
	let refusal = null;
	let isClosed = false;
	let hasAnswered = false;
	let probing = null;
	let explanation = "";
	const call = (callback, value) => {
		if (isClosed) return;
		try {
			callback?.(value);
		} catch (error) {
			environment.report(error);
		}
	};
	const authenticate = async (opened) => {
		try {
			const given = typeof token === "function" ? await token() : token;
			opened.send(JSON.stringify({
				type: "authenticate",
				token: given
			}));
		} catch (error) {
			environment.report(error);
			opened.close();
		}
	};
	const hasLost = () => {
		if (isOpen) lostAt = environment.clock.now();
		isOpen = false;
		attempts += 1;
	};
	const tellGap = (why, sinceMs) => call(onGap, {
		from: cursor,
		to: null,
		since: new Date(sinceMs).toISOString(),
		until: new Date(environment.clock.now()).toISOString(),
		why,
		what_to_do: READ_AGAIN
	});
	const tellError = (error) => call(onError ?? environment.report, error);
	/** The error with which the feed ends, if the server would refuse each further attempt as it did this one. */
	const finalError = (closeCode, closeReason) => {
		const canHaveNewToken = typeof token === "function";
		if (closeCode === SIGN_IN && token === void 0) return new FeedError("sign_in", NO_TOKEN, true);
		if (closeCode === SIGN_IN && !canHaveNewToken) return new FeedError(refusal?.code ?? "sign_in", refusal?.message ?? closeReason, true);
		if (closeCode !== POLICY_VIOLATION || !refusal || refusal.code === "not_a_cursor") return null;
		if (refusal.code === "no_rights" && canHaveNewToken) return null;
		return new FeedError(refusal.code, refusal.message, true);
	};
	/** Asks by HTTP why the socket did not open, and ends the feed if it never will. */
	const explain = async () => {
		if (hasAnswered || probing || !environment.fetch) return;
		probing = new AbortController();
		const answer = await probe(address, environment.fetch, probing.signal);
		probing.abort();
		probing = null;
		if (isClosed || hasAnswered) return;
		explanation = answer?.message ?? foreignOrigin(address, environment.page);
		if (answer?.isLasting) fail(new FeedError(answer.code, answer.message, true));
	};
	const onText = (text) => {
		let message;
		try {
			message = parse(text);
		} catch (error) {
			environment.report(error);
			return tellGap(`a message could not be read: ${String(error)}`, environment.clock.now());
		}
		switch (message.type) {
			case "hello":
				if (reader?.isDue) return call(reader.onBegin, void 0);
				isOpen = true;
				attempts = 0;
				call(onState, { state: "open" });
				if (lostAt !== null && (cursor === null || hasUnrecorded)) tellGap("the connection was lost, and what is not recorded is not sent later", lostAt);
				begin = message.cursor;
				cursor ??= begin;
				lostAt = null;
				return;
			case "rows":
				if (!reader) return;
				call(reader.onRows, message.rows);
				if (!message.is_last || isClosed) return;
				reader.isDue = false;
				isOpen = true;
				attempts = 0;
				begin = cursor = message.cursor;
				lostAt = null;
				call(reader.onEnd, void 0);
				return call(onState, { state: "open" });
			case "changes":
				for (const change of message.changes) {
					call(onChange, change);
					cursor = change?.cursor ?? cursor;
					if (isClosed || reader?.isDue) return;
				}
				begin = cursor = message.cursor ?? cursor;
				hasUnrecorded ||= message.cursor === null;
				return;
			case "gap":
				call(onGap, message);
				cursor = begin;
				return;
			case "going_away": return socket.expectClose(Number(message.reconnect_in_ms));
			case "error":
				if (isOpen && message.code === "bad_token" && token === void 0) return;
				if (isOpen) return tellError(new FeedError(message.code, message.message, false));
				if (message.code === "not_a_cursor") {
					tellGap(`the feed cannot continue after the cursor given: ${message.message}`, environment.clock.now());
					cursor = null;
					lostAt = null;
				}
				refusal = message;
				return;
		}
	};
	const socket = new ReconnectingSocket({
		open: () => {
			if (reader?.isDue) {
				address.searchParams.set("rows", "true");
				cursor = null;
			} else address.searchParams.delete("rows");
			if (cursor !== null) address.searchParams.set("since", cursor);
			else address.searchParams.delete("since");
			const opened = new WebSocket(address.href, "changefeed.v1");
			opened.onopen = () => void authenticate(opened);
			return opened;
		},
		clock: environment.clock,
		random: environment.random,
		silenceLimitMs: Infinity,
		onConnection: (connection) => {
			switch (connection.state) {
				case "waiting": {
					const error = finalError(connection.code, connection.reason);
					if (error) return fail(error);
					hasLost();
					if (connection.code === NO_CLOSE_FRAME) explain();
					const reason = refusal?.message ?? (connection.reason || explanation);
					return call(onState, {
						...connection,
						attempts,
						reason
					});
				}
				case "connecting":
					refusal = null;
					if (attempts > 0) call(onState, connection);
					else queueMicrotask(() => call(onState, connection));
					return;
				case "open":
					hasAnswered = true;
					explanation = "";
					return;
				case "closed": return;
				default: return assertNever(connection);
			}
		},
		onText
	});
	socket.connect();
	let isAway = false;
	const leave = () => {
		isAway = true;
		hasLost();
		socket.close();
	};
	const comeBack = () => {
		if (isAway) socket.connect();
		isAway = false;
	};
	environment.window?.addEventListener("pagehide", leave);
	environment.window?.addEventListener("pageshow", comeBack);
	const stop = () => {
		environment.window?.removeEventListener("pagehide", leave);
		environment.window?.removeEventListener("pageshow", comeBack);
		probing?.abort();
		socket.close();
	};
	const fail = (error) => {
		stop();
		call(onState, {
			state: "failed",
			reason: error.message
		});
		tellError(error);
		isClosed = true;
	};
	return {
		get cursor() {
			return cursor;
		},
		reconnect: (reason) => socket.reconnect(reason),
		fail,
		close() {
			isClosed = true;
			stop();
		}
	};
}
/** A hint, since a page may not read what a server answers that does not let it. */
function foreignOrigin(address, page) {
	if (page === void 0 || new URL(page).host === address.host) return "";
	const { origin } = new URL(page);
	return `no answer from ${address.host}; if it runs, it may not let pages of ${origin} in: --allow-origin ${origin}`;
}
// client/connect.ts
var OPTIONS$1 = [
	"table",
	"action",
	"filter",
	"columns",
	"since",
	"token",
	"onChange",
	"onGap",
	"onState",
	"onError",
	"parse",
	"WebSocket"
];
function connect(first, second, environment = RUNTIME) {
	const { address, options } = readArguments("connect", OPTIONS$1, first, second, environment);
	const feed = follow(address, options, environment);
	return {
		get cursor() {
			return feed.cursor;
		},
		close: feed.close
	};
}
// client/row_set.ts
/** The key's digits would be lost, so that two rows could be taken for one. */
var UnsafeKey = class extends Error {};
var RowSet = class {
	#key;
	#rows = /* @__PURE__ */ new Map();
	constructor(key) {
		this.#key = key;
	}
	add(row) {
		const key = this.keyOf(row);
		const there = this.#rows.get(key);
		if (there) there.push(row);
		else this.#rows.set(key, [row]);
	}
	/** False if the change does not say which rows it is about: then they have to be read again. */
	apply(change) {
		const { action, data, old, filter, count } = change;
		if (action === "TRUNCATE") {
			this.#rows.clear();
			return true;
		}
		if (count !== void 0 || data === null) return false;
		if (action === "DELETE") this.#remove(data);
		else if (action === "INSERT" || filter === "enter") this.add(data);
		else if (filter === "leave") this.#remove({
			...data,
			...old
		});
		else this.#update({
			...data,
			...old
		}, data);
		return true;
	}
	list() {
		const list = [];
		for (const rows of this.#rows.values()) for (const row of rows) list.push(row);
		return list;
	}
	keyOf(row) {
		const values = this.#key.map((column) => {
			const value = row[column];
			if (value === void 0) throw new UnsafeKey(`the rows have no column ${column}: name the columns of their key`);
			if (Number.isInteger(value) && !Number.isSafeInteger(value)) throw new UnsafeKey(`${column} has more digits than a number holds: give a parse that keeps them all`);
			return value;
		});
		const [value] = values;
		if (values.length === 1 && value !== null && typeof value !== "object") return value;
		return JSON.stringify(values, (_, part) => typeof part === "bigint" ? String(part) : part);
	}
	#update(old, row) {
		const rows = this.#rows.get(this.keyOf(old));
		if (rows && this.keyOf(old) === this.keyOf(row)) {
			rows[this.#placeOf(old, rows)] = row;
			return;
		}
		this.#remove(old);
		this.add(row);
	}
	#remove(row) {
		const key = this.keyOf(row);
		const rows = this.#rows.get(key);
		if (!rows) return;
		if (rows.length === 1) this.#rows.delete(key);
		else rows.splice(this.#placeOf(row, rows), 1);
	}
	/** Which of several rows of one key it is: the equal one, else the one that came first. */
	#placeOf(row, rows) {
		if (rows.length === 1) return 0;
		const text = JSON.stringify(row);
		return Math.max(0, rows.findIndex((other) => JSON.stringify(other) === text));
	}
};
// client/rows.ts
var OPTIONS = [
	"table",
	"filter",
	"columns",
	"key",
	"since",
	"compare",
	"token",
	"onState",
	"onError",
	"parse",
	"WebSocket"
];
var FRAME_MS = 16;
/** A pause is this many times the time that the subscribers take, which a long list makes longer than a frame. */
var SHARE = 4;
function rows(first, second, environment = RUNTIME) {
	const { address, options } = readArguments("rows", OPTIONS, first, second, environment);
	const key = [options.key ?? "id"].flat();
	checkTable(options, key);
	let set = new RowSet(key);
	let reading = set;
	const kept = options.since?.cursor ? options.since : null;
	for (const row of kept?.list ?? []) set.add(row);
	let isLoaded = kept !== null;
	let isLive = false;
	let shown = null;
	const runs = /* @__PURE__ */ new Set();
	let dueAt = -Infinity;
	let isTelling = false;
	const get = () => shown ??= snapshot(set, options.compare, isLoaded, isLive);
	const tell = () => {
		isTelling = false;
		const began = environment.clock.now();
		for (const run of [...runs]) try {
			run(get());
		} catch (error) {
			environment.report(error);
		}
		const now = environment.clock.now();
		dueAt = now + Math.max(FRAME_MS, SHARE * (now - began));
	};
	/** The changes of a message come one after the other: they are shown together. */
	const hasChanged = () => {
		shown = null;
		if (isTelling || runs.size === 0) return;
		isTelling = true;
		const wait = dueAt - environment.clock.now();
		if (wait > 0) environment.clock.after(wait, tell);
		else queueMicrotask(tell);
	};
	const setLive = (value) => {
		if (isLive === value) return;
		isLive = value;
		hasChanged();
	};
	const readAgain = (why) => {
		if (reader.isDue) return;
		reader.isDue = true;
		feed.reconnect(`the rows are read again: ${why}`);
	};
	/** A key that identifies no row ends it all: the set would be wrong from here on. */
	const orFail = (work) => {
		try {
			work();
		} catch (error) {
			reader.isDue = true;
			feed.fail(new FeedError("bad_key", error instanceof Error ? error.message : String(error), true));
		}
	};
	const reader = {
		isDue: kept === null,
		onBegin: () => {
			reading = new RowSet(key);
		},
		onRows: (read) => orFail(() => {
			for (const row of read) reading.add(row);
		}),
		onEnd: () => {
			set = reading;
			isLoaded = true;
			hasChanged();
		}
	};
	const { onState } = options;
	const feed = follow(address, {
		...options,
		since: kept?.cursor ?? null,
		onChange: (change) => orFail(() => {
			if (set.apply(change)) hasChanged();
			else readAgain(`a statement changed ${change.count} rows`);
		}),
		onGap: (gap) => readAgain(gap.why),
		onState: (state) => {
			setLive(state.state === "open");
			onState?.(state);
		}
	}, environment, reader);
	return {
		get,
		get cursor() {
			return reader.isDue ? null : feed.cursor;
		},
		subscribe: (run) => {
			const own = (value) => run(value);
			runs.add(own);
			run(get());
			return () => void runs.delete(own);
		},
		close: () => {
			runs.clear();
			feed.close();
			setLive(false);
		}
	};
}
function checkTable(options, key) {
	if (typeof options.table !== "string" || options.table === "") throw new TypeError("rows takes one table: rows({ table: \"orders\" })");
	if (options.since && !Array.isArray(options.since.list)) throw new TypeError("since takes rows that were kept with their cursor: { list, cursor }");
	if (options.columns === void 0) return;
	const columns = [options.columns].flat().flatMap((names) => names.split(","));
	const missing = key.filter((column) => !columns.some((name) => name === column || name === `"${column}"`));
	if (missing.length) throw new TypeError(`columns must contain the key ${missing.join(", ")}`);
}
function snapshot(set, compare, isLoaded, isLive) {
	const list = set.list();
	if (compare) list.sort(compare);
	let byKey = null;
	return {
		list,
		get byKey() {
			return byKey ??= new Map(list.map((row) => [set.keyOf(row), row]));
		},
		isLoaded,
		isLive
	};
}
export { FeedError, connect, rows };
