// What the second verifier reads: bytes, the SHA-256 tree, deterministic CBOR, and the tables
// of entries and records in docs/ledger-format.md (section numbers below are its own). Every
// function refuses what is not exactly so, with the reason and the place.
"use strict";
(() => {
  const HASH_SIZE = 32;
  const MAX_NUMBER = (1n << 63n) - 1n; // of a tree size, an index, a time
  const MAX_PATH_COUNT = 63; // hashes: the height of the largest tree
  const MAX_CBOR_DEPTH = 8;
  const MAX_APPROVERS = 16n;

  class Refused extends Error {
    constructor(reason, place) {
      super(place ? `${reason} (${place})` : reason);
      this.reason = reason;
      this.place = place;
    }
  }

  function require(condition, reason, place) {
    if (!condition) throw new Refused(reason, place);
  }

  // ---- bytes -------------------------------------------------------------------------

  const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
  const bytesOfHex = (text) => Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
  const equal = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
  const utf8 = (text) => new TextEncoder().encode(text);

  function concat(...parts) {
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }

  function textOf(bytes, what, place) {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw new Refused(`${what} is not UTF-8`, place);
    }
  }

  // atob forgives white space and stray low bits; encoding again shows both.
  function fromBase64(text, what, place) {
    let binary = null;
    try {
      binary = atob(text);
    } catch {
      binary = null;
    }
    require(binary !== null && btoa(binary) === text, `${what} is not base64`, place);
    return Uint8Array.from(binary, (character) => character.charCodeAt(0));
  }

  function decimal(text, what, place) {
    require(/^(0|[1-9][0-9]{0,18})$/.test(text), `${what} is not a decimal number`, place);
    const number = BigInt(text);
    require(number <= MAX_NUMBER, `${what} is too large`, place);
    return number;
  }

  // ---- SHA-256 tree, RFC 6962 section 2.1 ----------------------------------------------

  async function sha256(bytes) {
    return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  }
  const leafHash = (...parts) => sha256(concat(Uint8Array.of(0), ...parts));
  const nodeHash = (left, right) => sha256(concat(Uint8Array.of(1), left, right));

  // A last hash without a sibling is carried up as it is: that is the RFC's split.
  async function rootOf(hashes) {
    let row = hashes;
    while (row.length > 1) {
      const above = [];
      for (let at = 0; at < row.length; at += 2) {
        above.push(at + 1 < row.length ? nodeHash(row[at], row[at + 1]) : row[at]);
      }
      row = await Promise.all(above);
    }
    return row.length ? row[0] : sha256(new Uint8Array());
  }

  // RFC 9162 section 2.1.3.2: the root that this path leads to, or null when the path has
  // the wrong length for this index and size.
  async function rootFromPath(leaf, index, size, path) {
    let [node, last, root] = [index, size - 1n, leaf];
    for (const sibling of path) {
      if (last === 0n) return null;
      if (node & 1n || node === last) {
        root = await nodeHash(sibling, root);
        while (!(node & 1n) && node !== 0n) [node, last] = [node >> 1n, last >> 1n];
      } else {
        root = await nodeHash(root, sibling);
      }
      [node, last] = [node >> 1n, last >> 1n];
    }
    return last === 0n ? root : null;
  }

  // ---- deterministic CBOR, RFC 8949 section 4.2.1 ---------------------------------------
  // Integers become BigInt, maps Map, byte strings Uint8Array, tags {tag, value}. Floats do
  // not occur. Keys are numbers or texts: no other occurs, and none would be allowed.

  function decodeCbor(bytes, place) {
    let at = 0;
    const bad = (reason) => new Refused(reason, place);
    const need = (count) => {
      if (count > BigInt(bytes.length - at)) throw bad("CBOR ends too early");
    };

    function argument(info) {
      if (info < 24) return BigInt(info);
      if (info > 27) throw bad("CBOR of no definite length");
      const size = 1 << (info - 24);
      need(BigInt(size));
      let value = 0n;
      for (const byte of bytes.subarray(at, at + size)) value = (value << 8n) | BigInt(byte);
      at += size;
      const least = size === 1 ? 24n : 1n << BigInt(4 * size);
      if (value < least) throw bad("a CBOR number is longer than it must be");
      return value;
    }

    function take(count) {
      need(count);
      at += Number(count);
      return bytes.subarray(at - Number(count), at);
    }

    function map(count, depth) {
      const found = new Map();
      let before = null;
      for (let item = 0n; item < count; item += 1n) {
        const start = at;
        const key = value(depth + 1);
        if (typeof key !== "bigint" && typeof key !== "string") throw bad("a CBOR key's kind");
        const encoded = bytes.subarray(start, at);
        if (before && compare(before, encoded) >= 0) throw bad("CBOR keys do not ascend");
        before = encoded;
        found.set(key, value(depth + 1));
      }
      return found;
    }

    function value(depth) {
      if (depth > MAX_CBOR_DEPTH) throw bad("CBOR is nested too deeply");
      need(1n);
      const first = bytes[at++];
      const major = first >> 5;
      if (major === 7) {
        const simple = new Map([[0xf4, false], [0xf5, true], [0xf6, null]]);
        if (!simple.has(first)) throw bad("a CBOR value that does not occur here");
        return simple.get(first);
      }
      const size = argument(first & 31);
      if (major === 0) return size;
      if (major === 1) return -1n - size;
      if (major === 2) return take(size).slice();
      if (major === 3) return textOf(take(size), "a CBOR text", place);
      if (major === 4) {
        need(size);
        const items = [];
        while (BigInt(items.length) < size) items.push(value(depth + 1));
        return items;
      }
      if (major === 5) {
        need(size * 2n);
        return map(size, depth);
      }
      return { tag: size, value: value(depth + 1) };
    }

    const whole = value(0);
    if (at !== bytes.length) throw bad("bytes after the CBOR");
    return whole;
  }

  function compare(a, b) {
    for (let at = 0; at < Math.min(a.length, b.length); at += 1) {
      if (a[at] !== b[at]) return a[at] - b[at];
    }
    return a.length - b.length;
  }

  // What a value must be, in the words of the tables in the document.
  const is = {
    number: (v) => typeof v === "bigint" && v >= 0n && v <= MAX_NUMBER,
    text: (v) => typeof v === "string",
    name: (v) => typeof v === "string" && v.length > 0,
    bytes: (v) => v instanceof Uint8Array,
    id: (v) => v instanceof Uint8Array && v.length === 16,
    address: (v) => v instanceof Uint8Array && v.length === 6,
    hash: (v) => v instanceof Uint8Array && v.length === HASH_SIZE,
    key: (v) => v instanceof Uint8Array && (v.length === 32 || v.length === 65),
    hashes: (v) => Array.isArray(v) && v.every(is.hash),
    signature: (v) => v instanceof Uint8Array && v.length === 64,
    step: (v) => typeof v === "bigint" && v >= 1n && v <= 4n,
    approvers: (v) => Array.isArray(v) && BigInt(v.length) <= MAX_APPROVERS && v.every(
      (one) => Array.isArray(one) && one.length === 2 && is.text(one[0]) && is.hash(one[1])),
    bit: (v) => v === 0n || v === 1n,
    upTo: (limit) => (v) => typeof v === "bigint" && v >= 0n && v <= limit,
    oneOf: (...words) => (v) => words.includes(v),
  };

  // fields: key -> test, or [test] where the key may be absent.
  function checkMap(map, fields, what, place) {
    require(map instanceof Map, `${what} is not a map`, place);
    for (const key of map.keys()) require(fields.has(key), `${what} has key ${key}`, place);
    for (const [key, rule] of fields) {
      const test = Array.isArray(rule) ? rule[0] : rule;
      if (!map.has(key)) require(Array.isArray(rule), `${what} lacks key ${key}`, place);
      else require(test(map.get(key)), `${what}: key ${key} is not what it must be`, place);
    }
    return map;
  }

  const fieldsOf = (...pairs) => new Map(pairs.map(([key, rule]) => [BigInt(key), rule]));

  // ---- entries, sections 1 and 2 --------------------------------------------------------

  const BATCH = 1;
  const EPOCH = 2;
  const START = 3;
  const TICK = 4;
  const ENROLMENT = 5;
  const REVOCATION = 6;
  const STEP = 10;
  const DEVICE_KEY = 11;
  const ENTRY_KINDS = new Map([
    [BATCH, ["batch", fieldsOf([1, is.id], [2, is.number], [3, is.number], [4, is.bit],
      [5, is.hash])]],
    [EPOCH, ["epoch start", fieldsOf([1, is.name], [2, is.number], [3, [is.name]],
      [4, [is.bytes]], [5, [is.number]], [6, [is.hash]])]],
    [START, ["gateway start", fieldsOf([1, is.id], [2, is.number], [3, is.bit], [4, is.name],
      [5, is.hash], [6, is.hash], [7, is.hashes], [8, [is.hash]])]],
    [TICK, ["clock tick", fieldsOf([1, is.id], [2, is.number], [3, is.bit])]],
    [ENROLMENT, ["device enrolment", fieldsOf([1, is.id], [2, is.number], [3, is.bit],
      [4, [is.key]])]],
    [REVOCATION, ["device revocation", fieldsOf([1, is.id], [2, is.number])]],
    [7, ["authority", fieldsOf([1, is.name], [2, is.number], [3, is.upTo(MAX_APPROVERS)],
      [4, is.approvers])]],
    [8, ["contract proposal", fieldsOf([1, is.number], [2, is.number], [3, is.hash],
      [4, is.name], [5, is.number])]],
    [9, ["contract approval", fieldsOf([1, is.number], [2, is.number], [3, is.hash],
      [4, is.name], [5, is.signature])]],
    [STEP, ["contract step", fieldsOf([1, is.number], [2, is.number], [3, is.hash],
      [4, is.step], [5, [is.name]], [6, [is.signature]])]],
    [DEVICE_KEY, ["device key", fieldsOf([1, is.id], [2, is.number], [3, is.key],
      [4, is.number])]],
  ]);

  function decodeEntry(bytes, place) {
    require(bytes.length > 0, "an entry is empty", place);
    const kind = ENTRY_KINDS.get(bytes[0]);
    require(kind, `an entry of the unknown type ${bytes[0]}`, place);
    const [name, fields] = kind;
    const map = checkMap(decodeCbor(bytes.subarray(1), place), fields, name, place);
    if (bytes[0] === EPOCH) {
      const [before, note, size, root] = [3n, 4n, 5n, 6n].map((key) => map.has(key));
      const whole = before === size && before === root && (before || !note);
      require(whole, "the epoch before is named whole or not at all", place);
    }
    if (bytes[0] === ENROLMENT) {
      const wanted = map.get(3n) === 1n;
      require(map.has(4n) === wanted, "the enrolment's key does not fit its attestation", place);
    }
    if (bytes[0] === DEVICE_KEY) {
      const ordered = map.get(4n) >= map.get(2n);
      require(ordered, "the key before ends ahead of the one after it", place);
    }
    if (bytes[0] === STEP) {
      const signed = map.get(4n) !== 1n;
      const whole = map.has(5n) === signed && map.has(6n) === signed;
      require(whole, "every step but an activation is signed", place);
    }
    return { type: bytes[0], name, map, time: map.get(bytes[0] === BATCH ? 3n : 2n) };
  }

  // ---- records, section 3 ---------------------------------------------------------------

  const RECORD = fieldsOf([0, is.number], [1, is.upTo(9n)], [2, [is.text]], [3, [is.text]],
    [4, is.number], [5, is.bit], [6, [is.oneOf("mqtt", "ble", "ble-bonded")]],
    [7, is.upTo(63n)], [8, [is.id]], [9, is.bytes], [10, [is.address]]);

  // What the original says is not the ledger's to judge; words.js puts it into words.
  function decodeRecord(bytes, place) {
    const record = checkMap(decodeCbor(bytes, place), RECORD, "the record", place);
    require(record.get(0n) === 1n, "a record of an unknown version", place);
    return record;
  }

  globalThis.iomtFormat = Object.freeze({
    HASH_SIZE, MAX_NUMBER, MAX_PATH_COUNT, Refused, require, hex, bytesOfHex, equal,
    utf8, concat, textOf, fromBase64, decimal, sha256, leafHash, nodeHash, rootOf,
    rootFromPath, decodeCbor, is, checkMap, fieldsOf, BATCH, EPOCH, START, TICK,
    ENROLMENT, REVOCATION, DEVICE_KEY, decodeEntry, decodeRecord,
  });
})();
