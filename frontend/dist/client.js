// The client of psqlisten2websocket: see "In your page" in its README. MIT License.
// src/values/assert_never.ts
/** Makes a forgotten case of a union a compile error, and a lying type a loud one. */
function assertNever(value) {
	throw new Error(`unhandled case: ${JSON.stringify(value)}`);
}
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
/** An attempt to which the server does not say its first word in this time is given up. */
var ANSWER_LIMIT_MS = 1e4;
/** What a browser says of a connection that was lost without a word (RFC 6455, 7.1.5). */
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
		this.#giveUpAfter(ANSWER_LIMIT_MS);
		this.#enter({ state: "connecting" });
	}
	/** What the server announced before it goes away: its own delay for the one next attempt. */
	expectClose(reconnectInMs) {
		this.#announcedDelayMs = reconnectInMs;
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
// client/client.ts
var SUBSCRIPTION = [
	"table",
	"action",
	"filter",
	"columns"
];
var OPTIONS = [
	...SUBSCRIPTION,
	"since",
	"token",
	"onChange",
	"onGap",
	"onState",
	"parse"
];
var READ_AGAIN = "read the tables you follow once more; the feed goes on from here";
var BROWSER = {
	page: globalThis.location?.href,
	open: (url) => new WebSocket(url, "changefeed.v1"),
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
function connect(first, second = {}, browser = BROWSER) {
	const isUrl = typeof first === "string" || first instanceof URL || first === void 0;
	const options = isUrl ? second : first;
	checkNames(options);
	const address = addressOf(isUrl ? first ?? "/ws" : "/ws", options, browser);
	const { onChange, onGap, onState, parse = JSON.parse, since, token } = options;
	let cursor = since ?? address.searchParams.get("since");
	let begin = null;
	let hasUnjournaled = false;
	let isOpen = false;
	let lostAt = null;
	let attempts = 0;
	let refusal = "";
	let isClosed = false;
	const call = (callback, value) => {
		if (isClosed) return;
		try {
			callback?.(value);
		} catch (error) {
			browser.report(error);
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
			browser.report(error);
			opened.close();
		}
	};
	const hasLost = () => {
		if (isOpen) lostAt = browser.clock.now();
		isOpen = false;
		attempts += 1;
	};
	const tellGap = (why, sinceMs) => call(onGap, {
		from: cursor,
		to: null,
		since: new Date(sinceMs).toISOString(),
		until: new Date(browser.clock.now()).toISOString(),
		why,
		what_to_do: READ_AGAIN
	});
	const onText = (text) => {
		let message;
		try {
			message = parse(text);
		} catch (error) {
			browser.report(error);
			return tellGap(`a message could not be read: ${String(error)}`, browser.clock.now());
		}
		switch (message.type) {
			case "hello":
				isOpen = true;
				attempts = 0;
				call(onState, { state: "open" });
				if (lostAt !== null && (cursor === null || hasUnjournaled)) tellGap("the connection was lost, and what is not journaled is not sent later", lostAt);
				begin = message.cursor;
				cursor ??= begin;
				lostAt = null;
				return;
			case "changes":
				for (const change of message.changes) {
					call(onChange, change);
					cursor = change.cursor ?? cursor;
					if (isClosed) return;
				}
				begin = cursor = message.cursor ?? cursor;
				hasUnjournaled ||= message.cursor === null;
				return;
			case "gap":
				call(onGap, message);
				cursor = begin;
				return;
			case "going_away": return socket.expectClose(Number(message.reconnect_in_ms));
			case "error":
				if (message.code === "not_a_cursor") {
					tellGap(`the feed cannot continue after the cursor given: ${message.message}`, browser.clock.now());
					cursor = null;
					lostAt = null;
				}
				refusal = message.message;
				if (isOpen || !onState) browser.report(/* @__PURE__ */ new Error(`changefeed: ${message.code}: ${refusal}`));
				return;
		}
	};
	const socket = new ReconnectingSocket({
		open: () => {
			if (cursor !== null) address.searchParams.set("since", cursor);
			else address.searchParams.delete("since");
			const opened = browser.open(address);
			if (token !== void 0) opened.onopen = () => void authenticate(opened);
			return opened;
		},
		clock: browser.clock,
		random: browser.random,
		silenceLimitMs: Infinity,
		onConnection: (connection) => {
			switch (connection.state) {
				case "waiting":
					hasLost();
					return call(onState, {
						...connection,
						attempts,
						reason: refusal || connection.reason
					});
				case "connecting":
					refusal = "";
					if (attempts > 0) call(onState, connection);
					else queueMicrotask(() => call(onState, connection));
					return;
				case "open":
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
	browser.window?.addEventListener("pagehide", leave);
	browser.window?.addEventListener("pageshow", comeBack);
	return {
		get cursor() {
			return cursor;
		},
		close() {
			isClosed = true;
			browser.window?.removeEventListener("pagehide", leave);
			browser.window?.removeEventListener("pageshow", comeBack);
			socket.close();
		}
	};
}
function checkNames(options) {
	const unknown = Object.keys(options).filter((name) => !OPTIONS.includes(name));
	if (unknown.length) throw new TypeError(`unknown option ${unknown.join(", ")}; connect takes ${OPTIONS.join(", ")}`);
}
function addressOf(url, options, browser) {
	const address = new URL(url, browser.page);
	address.protocol = address.protocol.replace("http", "ws");
	address.hash = "";
	for (const name of SUBSCRIPTION) for (const value of [options[name] ?? []].flat()) address.searchParams.append(name, value);
	return address;
}
export { connect };
