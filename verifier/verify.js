// The second verifier: a ledger directory or a .tlog-proof, checked without a line of the
// gateway's code. Written from docs/ledger-format.md, whose section numbers stand below, and
// the C2SP documents that it names (signed-note, tlog-checkpoint, tlog-tiles, tlog-proof).
//
// It needs WebCrypto with SHA-256 and Ed25519 and nothing else: Node 20, Chrome and Edge
// 137, Firefox 129, Safari 17, or newer. A plain script, so that a page opened from the disk
// can load it too; verify.mjs is its face for `import`.
//
//   verifyProof(bytes, vkey, deviceKey)   -> a promise of a verdict
//   verifyDirectory(read, vkey, list)     read(path) and list() may be asynchronous
//
// The verdict is OK, REFUSED (reason, place) or NOT ENOUGH (missing). A key that is no key
// is a fault of the caller: RangeError. What `read` throws goes through.
"use strict";
(() => {
  const {
    HASH_SIZE, MAX_PATH_COUNT, Refused, require, hex, bytesOfHex, equal, utf8, concat,
    textOf, fromBase64, decimal, sha256, leafHash, nodeHash, rootOf, rootFromPath,
    decodeCbor, is, checkMap, fieldsOf, BATCH, EPOCH, START, TICK, ENROLMENT,
    REVOCATION, DEVICE_KEY,
    decodeEntry, decodeRecord,
  } = globalThis.iomtFormat;
  const { Contracts } = globalThis.iomtContracts;

  const TILE_WIDTH = 256; // hashes in a full tile, entries in a full bundle
  const MAX_PROOF_SIZE = 1 << 20; // bytes
  const MAX_CHECKPOINT_SIZE = 128 << 10; // bytes
  const MAX_SIGNATURES = 100;
  const MAX_NAME_SIZE = 255; // bytes
  const MAX_ENVELOPE_SIZE = 65536; // bytes
  const ED25519 = 0x01; // the signature type of a log's own key

  // ---- keys and checkpoints, section 6 --------------------------------------------------

  // The name of a key: no space, plus or control character, nothing that does not show.
  const isKeyName = (name) =>
    /^[^\p{C}\p{Z}+]+$/u.test(name) && utf8(name).length <= MAX_NAME_SIZE;

  // A verifier key: name+key id in hex+base64(type, 32 bytes).
  async function parseVkey(text) {
    const match = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})$/u.exec(text);
    if (!match || !isKeyName(match[1])) {
      throw new RangeError("not a verifier key: name+id+base64 expected");
    }
    let material;
    try {
      material = fromBase64(match[3], "the key");
    } catch {
      throw new RangeError("not a verifier key: its base64 is wrong");
    }
    if (material.length !== 1 + HASH_SIZE || material[0] !== ED25519) {
      throw new RangeError("not the verifier key of a log: type 1 and 32 bytes expected");
    }
    const id = (await sha256(concat(utf8(match[1] + "\n"), material))).subarray(0, 4);
    if (hex(id) !== match[2]) throw new RangeError("the verifier key's id is not its own");
    return { name: match[1], id: match[2], publicKey: material.subarray(1) };
  }

  async function signatureHolds(publicKey, signature, message) {
    let key;
    try {
      key = await crypto.subtle.importKey("raw", publicKey, { name: "Ed25519" }, false, [
        "verify",
      ]);
    } catch (problem) {
      if (problem.name === "DataError") return false; // not a point
      throw new RangeError("this browser or Node has no Ed25519 in WebCrypto");
    }
    return crypto.subtle.verify({ name: "Ed25519" }, key, signature, message);
  }

  function parseNote(bytes, place) {
    require(bytes.length <= MAX_CHECKPOINT_SIZE, "the checkpoint is too long", place);
    const note = textOf(bytes, "the checkpoint", place);
    require(!/[\x00-\x09\x0b-\x1f]/.test(note), "a control character", place);
    const split = note.lastIndexOf("\n\n");
    require(split > 0 && note.endsWith("\n"), "the checkpoint is not a signed note", place);
    const text = note.slice(0, split + 1);
    const lines = note.slice(split + 2, -1).split("\n");
    require(lines.length <= MAX_SIGNATURES, "too many signatures", place);
    const signatures = lines.map((line) => {
      const match = /^\u2014 ([^ ]+) ([^ ]+)$/u.exec(line);
      require(match && isKeyName(match[1]), "a malformed signature line", place);
      const blob = fromBase64(match[2], "a signature", place);
      require(blob.length > 4, "a signature that is too short", place);
      return { name: match[1], id: hex(blob.subarray(0, 4)), signature: blob.subarray(4) };
    });
    return { text, signatures };
  }

  // The origin, size and root, and whether the given key signed them (null: no key given).
  async function checkCheckpoint(bytes, key, place) {
    const { text, signatures } = parseNote(bytes, place);
    const lines = text.slice(0, -1).split("\n");
    require(lines.length === 3, "a checkpoint has three lines", place);
    const [origin, sizeText, rootText] = lines;
    require(origin, "the checkpoint has no origin", place);
    const size = decimal(sizeText, "the tree size", place);
    const root = fromBase64(rootText, "the root", place);
    require(root.length === HASH_SIZE, "the root is not 32 bytes", place);
    require(size || equal(root, await rootOf([])), "not the root of an empty log", place);
    if (key) {
      require(key.name === origin, "the checkpoint is of another log than the key", place);
      const own = signatures.filter((s) => s.name === key.name && s.id === key.id);
      require(own.length > 0, "no signature by the given key", place);
      for (const { signature } of own) {
        const holds =
          signature.length === 64 && (await signatureHolds(key.publicKey, signature, utf8(text)));
        require(holds, "the signature does not hold", place);
      }
    }
    const others = key
      ? signatures.filter((s) => s.name !== key.name || s.id !== key.id)
      : signatures;
    return { origin, size, root, unchecked: others.map((s) => s.name) };
  }

  // ---- the device's own signature, section 8 ---------------------------------------------

  const FIELD = (1n << 255n) - 19n;
  const CURVE_D = 0x52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3n;
  // y of the points of small order: with such a key one signature fits many messages
  const EIGHTH = 0x5fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826n;
  const SMALL_ORDER = [0n, 1n, FIELD - 1n, EIGHTH, FIELD - EIGHTH];
  const READING = 1n;
  const PROTECTED = Uint8Array.of(0xa2, 0x01, 0, 0x04, 0x48); // alg at 2, kid of 8 bytes
  const ALG_AT = 2;
  const ALGORITHMS = new Map([[32, 0x27], [65, 0x26]]); // EdDSA, ES256, by the key's size
  const P256 = (1n << 256n) - (1n << 224n) + (1n << 192n) + (1n << 96n) - 1n;
  const P256_B = 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn;

  // A point of P-256, y² = x³ - 3x + b, as 04 || x || y.
  function isP256Key(key) {
    const [x, y] = [key.subarray(1, 33), key.subarray(33)].map((b) => BigInt(`0x${hex(b)}`));
    const onCurve = (y * y - (x * x * x - 3n * x + P256_B)) % P256 === 0n;
    return key[0] === 4 && x < P256 && y < P256 && onCurve;
  }

  async function deviceSignatureHolds(key, signature, message) {
    if (key.length === 32) return signatureHolds(key, signature, message);
    const curve = { name: "ECDSA", namedCurve: "P-256" };
    const point = await crypto.subtle.importKey("raw", key, curve, false, ["verify"]);
    return crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, point, signature, message);
  }

  // In its canonical form, on the curve x² = (y² - 1) / (d y² + 1), not of small order.
  function isDeviceKey(key) {
    if (key.length === 65) return isP256Key(key);
    const y = BigInt(`0x${hex(key.slice().reverse())}`) & ((1n << 255n) - 1n);
    const square = ((y * y - 1n) * (CURVE_D * y * y + 1n)) % FIELD;
    return y < FIELD && !SMALL_ORDER.includes(y) && power(square, (FIELD - 1n) / 2n) === 1n;
  }

  function power(base, exponent) {
    let [result, square] = [1n, base];
    for (let rest = exponent; rest > 0n; rest >>= 1n) {
      if (rest & 1n) result = (result * square) % FIELD;
      square = (square * square) % FIELD;
    }
    return result;
  }

  // The head of a CBOR byte string and its bytes.
  function byteString(bytes) {
    const size = bytes.length;
    const head = size < 24 ? [0x40 | size]
      : size < 256 ? [0x58, size]
      : size < 65536 ? [0x59, size >> 8, size & 255]
      : [0x5a, size >>> 24, (size >> 16) & 255, (size >> 8) & 255, size & 255];
    return concat(Uint8Array.from(head), bytes);
  }

  // What a device signed, in a record of attestation 1.
  function signedOriginal(record, place) {
    require(record.get(1n) === READING, "what is no reading claims a device's signature", place);
    const original = record.get(9n);
    require(original.length <= MAX_ENVELOPE_SIZE, "the envelope is too long", place);
    const { tag, value } = decodeCbor(original, place) ?? {};
    const shape = [is.bytes, (v) => v instanceof Map && v.size === 0, is.bytes, is.signature];
    const fits = tag === 18n && Array.isArray(value) && value.length === 4;
    require(fits && shape.every((test, at) => test(value[at])), "not a signed envelope", place);
    const [header, , payload, signature] = value;
    const algorithm = header[ALG_AT];
    const head = PROTECTED.map((byte, at) => (at === ALG_AT ? algorithm : byte));
    const known = [...ALGORITHMS.values()].includes(algorithm);
    const ours = header.length === 13 && known && equal(header.subarray(0, 5), head);
    require(ours, "the envelope's header is not {alg, kid}", place);
    const fields = decodeCbor(payload, place);
    for (const [key, own, name] of [[1n, 2n, "device"], [2n, 3n, "stream"]]) {
      const said = fields instanceof Map && is.text(fields.get(key)) && fields.get(key);
      require(said === record.get(own), `the record's ${name} is not the envelope's`, place);
    }
    const message = concat(
      Uint8Array.of(0x84, 0x6a), // an array of 4, a text of 10
      utf8("Signature1"),
      byteString(header),
      byteString(utf8("iomt/reading/v1")),
      byteString(payload),
    );
    return { algorithm, kid: header.subarray(5), message, signature };
  }

  async function checkDevice({ algorithm, kid, message, signature }, key, place) {
    const own = (await sha256(key)).subarray(0, 8);
    require(equal(own, kid), "the device's signature is by another key", place);
    const fits = ALGORITHMS.get(key.length) === algorithm;
    require(fits, "the envelope's algorithm is not the key's", place);
    const holds = await deviceSignatureHolds(key, signature, message);
    require(holds, "the device's signature does not hold", place);
  }

  // ---- a proof, section 5 ---------------------------------------------------------------

  const EXTRA = fieldsOf([1, is.number], [2, is.bytes], [3, is.number], [4, is.hashes],
    [5, is.hash], [6, [is.id]], [7, [is.bytes]],
    [8, [(v) => Array.isArray(v) && v.length === 3 && is.number(v[0]) && is.hashes(v[1]) &&
      v[1].length <= MAX_PATH_COUNT && is.bytes(v[2])]]);

  function parseProof(bytes) {
    require(bytes.length <= MAX_PROOF_SIZE, "the proof is too long", "proof");
    // The checkpoint is taken as bytes, so that its own rules say what is wrong with it.
    let blank = 0;
    while (blank + 1 < bytes.length && (bytes[blank] !== 10 || bytes[blank + 1] !== 10)) {
      blank += 1;
    }
    require(blank + 1 < bytes.length, "no empty line before the checkpoint", "proof");
    const lines = textOf(bytes.subarray(0, blank), "the proof", "proof").split("\n");
    require(lines.shift() === "c2sp.org/tlog-proof@v1", "not a tlog-proof", "line 1");
    require(lines[0]?.startsWith("extra "), "no extra line", "extra");
    const extra = fromBase64(lines.shift().slice(6), "extra", "extra");
    require(lines[0]?.startsWith("index "), "no index line", "index");
    const index = decimal(lines.shift().slice(6), "the index", "index");
    require(lines.length <= MAX_PATH_COUNT, "the log's path is too long", "path");
    const path = lines.map((line) => fromBase64(line, "a hash", "path"));
    require(path.every(is.hash), "a hash is not 32 bytes", "path");
    return { extra, index, path, checkpoint: bytes.subarray(blank + 2) };
  }

  async function checkLeaf(extra) {
    const path = extra.get(4n);
    require(path.length <= MAX_PATH_COUNT, "the batch's path is too long", "extra");
    const leaves = 1n << BigInt(path.length);
    require(extra.get(3n) < leaves, "the leaf index lies outside the batch", "extra");
    require(extra.has(6n) === extra.has(7n), "salt and record come together", "extra");
    require(extra.has(7n) || !extra.has(8n), "an enrolment without a record", "extra");
    if (extra.has(7n)) {
      const leaf = await leafHash(extra.get(6n), extra.get(7n));
      require(equal(leaf, extra.get(5n)), "the record is not this leaf's", "record");
    }
    return rootFromPath(extra.get(5n), extra.get(3n), leaves, path);
  }

  // The device's key as the ledger itself has it, before the entry that holds the reading.
  async function enrolledKey([index, path, bytes], before, checkpoint) {
    const place = "enrolment";
    const { type, map } = decodeEntry(bytes, place);
    const key = type === DEVICE_KEY ? map.get(3n) : type === ENROLMENT && map.get(4n);
    require(key, "not the enrolment of a device that signs", place);
    require(index < before, "the enrolment does not stand before the reading", place);
    const root = await rootFromPath(await leafHash(bytes), index, checkpoint.size, path);
    require(root && equal(root, checkpoint.root), "the enrolment is not in the log", place);
    require(isDeviceKey(key), "the enrolled key is not a proper one", place);
    return key;
  }

  // In words what is known of the device, or what is missing to know it.
  async function checkAttestation(record, enrolled, pinned) {
    if (record.get(5n) !== 1n) {
      require(!enrolled, "an enrolment, but no device signed this record", "enrolment");
      return pinned ? { missing: "no device signed this record" } : {};
    }
    const signed = signedOriginal(record, "record");
    const key = pinned ?? enrolled;
    if (!key) return { missing: "the device's key" };
    await checkDevice(signed, key, "record");
    const same = !enrolled || equal(enrolled, key);
    require(same, "the ledger has another key for the device", "enrolment");
    const whose = pinned ? "the key that was given" : "its key in the ledger";
    return { device: `the device signed it, checked with ${whose}` };
  }

  async function proofFacts(bytes, key, pinned) {
    const proof = parseProof(bytes);
    const extra = checkMap(decodeCbor(proof.extra, "extra"), EXTRA, "extra", "extra");
    require(extra.get(1n) === 1n, "extra of an unknown version", "extra");
    const entry = decodeEntry(extra.get(2n), "batch entry");
    require(entry.type === BATCH, "the entry is not a batch", "batch entry");
    const batchRoot = await checkLeaf(extra);
    require(equal(batchRoot, entry.map.get(5n)), "the leaf is not in the batch", "batch entry");

    const checkpoint = await checkCheckpoint(proof.checkpoint, key, "checkpoint");
    require(proof.index < checkpoint.size, "the index lies outside the log", "index");
    const leaf = await leafHash(extra.get(2n));
    const root = await rootFromPath(leaf, proof.index, checkpoint.size, proof.path);
    require(root && equal(root, checkpoint.root), "the entry is not in the log", "path");

    const enrolled = extra.has(8n)
      ? await enrolledKey(extra.get(8n), proof.index, checkpoint)
      : null;
    const record = extra.has(7n) ? decodeRecord(extra.get(7n), "record") : null;
    let attested = pinned ? { missing: "the record is not disclosed" } : {};
    if (record) attested = await checkAttestation(record, enrolled, pinned);
    const where = { index: proof.index, batch: entry.map, leafIndex: extra.get(3n) };
    return { ...checkpoint, ...where, record, ...attested };
  }

  // ---- a ledger directory, sections 1 and 11 --------------------------------------------
  // From the signature down, so that blame falls on the file that is wrong: the checkpoint's
  // root fixes the partial tiles, each hash of a tile fixes the full tile below it, each leaf
  // hash an entry. Then the entries' own rules, and last every other file.

  const ENTRIES = "entries"; // the level of a bundle, in its path

  function tileAt(level, number, width) {
    let name = String(number % 1000n).padStart(3, "0");
    for (let rest = number / 1000n; rest > 0n; rest /= 1000n) {
      name = `x${String(rest % 1000n).padStart(3, "0")}/${name}`;
    }
    const part = width < TILE_WIDTH ? `.p/${width}` : "";
    return { level, number, width, path: `tile/${level}/${name}${part}` };
  }

  // Hashes on a level of tiles, entries in all bundles.
  const countAt = (level, size) => (level === ENTRIES ? size : size >> BigInt(8 * level));

  const widthAt = (level, number, size) => {
    const rest = countAt(level, size) - number * BigInt(TILE_WIDTH);
    return rest <= 0n ? 0 : rest < BigInt(TILE_WIDTH) ? Number(rest) : TILE_WIDTH;
  };

  // The tiles of one level, the partial one last; lazily, for a size may be a lie.
  function* tilesOf(level, size) {
    for (let number = 0n; widthAt(level, number, size); number += 1n) {
      yield tileAt(level, number, widthAt(level, number, size));
    }
  }

  function levelsOf(size) {
    let levels = 0;
    while (countAt(levels, size)) levels += 1;
    return levels;
  }

  class Ledger {
    constructor(read, checkpoint) {
      this.readFile = read;
      this.checkpoint = checkpoint;
    }

    async read(path) {
      const bytes = await this.readFile(path);
      require(bytes, "the file is missing", path);
      return bytes;
    }

    async hashes(tile) {
      const bytes = await this.read(tile.path);
      require(bytes.length === tile.width * HASH_SIZE, "the file's size is wrong", tile.path);
      return Array.from({ length: tile.width }, (_, at) =>
        bytes.subarray(at * HASH_SIZE, (at + 1) * HASH_SIZE),
      );
    }

    // Each entry of a bundle and the byte where its size stands. The end is looked at last,
    // so that a damaged entry is named before what follows from it.
    async *entries(tile) {
      const bytes = await this.read(tile.path);
      let at = 0;
      for (let item = 0; item < tile.width; item += 1) {
        const start = at + 2;
        const end = start + (bytes[at] << 8) + bytes[at + 1];
        require(end <= bytes.length, `the bundle ends inside entry ${item}`, tile.path);
        yield { at, entry: bytes.subarray(start, end) };
        at = end;
      }
      require(at === bytes.length, "bytes after the last entry", tile.path);
    }

    async checkEdge() {
      const { size, root } = this.checkpoint;
      const edge = [];
      let found = null;
      for (let level = 0; level < levelsOf(size); level += 1) {
        const number = countAt(level, size) / BigInt(TILE_WIDTH);
        const width = widthAt(level, number, size);
        if (!width) continue;
        const tile = tileAt(level, number, width);
        edge.push(tile);
        found = await foldEdge(await this.hashes(tile), found);
      }
      if (equal(found ?? (await rootOf([])), root)) return;
      for (const tile of edge.reverse()) await this.blame(tile);
      throw new Refused("the root is not that of the tiles", "checkpoint");
    }

    async checkFullTiles(level) {
      const { size } = this.checkpoint;
      const parents = tilesOf(level + 1, size);
      let above = [];
      for (const tile of tilesOf(level, size)) {
        if (tile.width < TILE_WIDTH) return; // of the edge, which was checked
        if (!above.length) above = await this.hashes(parents.next().value);
        if (!equal(await rootOf(await this.hashes(tile)), above.shift())) {
          await this.blame(tile);
          throw new Refused("its root is not the hash in the tile above", tile.path);
        }
      }
    }

    // Refuses at the first hash that is not what lies below it gives, if there is one.
    async blame(tile) {
      const found = await this.hashes(tile);
      const entries =
        tile.level === 0 ? this.entries(tileAt(ENTRIES, tile.number, tile.width)) : null;
      for (let at = 0; at < found.length; at += 1) {
        const child = tile.number * BigInt(TILE_WIDTH) + BigInt(at);
        const below = entries
          ? await leafHash((await entries.next()).value.entry)
          : await rootOf(await this.hashes(tileAt(tile.level - 1, child, TILE_WIDTH)));
        const place = `${tile.path}, hash ${at} (byte ${at * HASH_SIZE})`;
        require(equal(found[at], below), "the hash is not what lies below it gives", place);
      }
    }

    async checkEntries() {
      const history = new History(this.checkpoint.origin);
      let index = 0n;
      for (const tile of tilesOf(0, this.checkpoint.size)) {
        const bundle = tileAt(ENTRIES, tile.number, tile.width);
        const wanted = (await this.hashes(tile)).values();
        for await (const { at, entry } of this.entries(bundle)) {
          const place = `${bundle.path}, entry ${index} (byte ${at})`;
          const hash = wanted.next().value;
          require(equal(await leafHash(entry), hash), "not the entry that was logged", place);
          await history.take(index, decodeEntry(entry, place), place);
          index += 1n;
        }
      }
      return history.counts;
    }

    // An earlier, narrower partial tile must be how the present one begins; a file that the
    // log has no place for is refused, because nothing vouches for it.
    async checkOtherFiles(paths) {
      const { size } = this.checkpoint;
      for (const path of paths) {
        if (path === "checkpoint") continue;
        const match =
          /^tile\/(entries|[0-7])\/((?:x[0-9]{3}\/){0,6}[0-9]{3})(?:\.p\/([1-9][0-9]{0,2}))?$/.exec(
            path,
          );
        require(match, "a file that the log has no place for", path);
        const level = match[1] === ENTRIES ? ENTRIES : Number(match[1]);
        const number = BigInt(match[2].replace(/[x/]/g, ""));
        const tile = tileAt(level, number, Number(match[3] ?? TILE_WIDTH));
        require(tile.path === path, "a file that the log has no place for", path);
        const width = widthAt(level, number, size);
        require(tile.width <= width, `a log of ${size} entries has no such tile`, path);
        if (tile.width === width) continue;
        const present = tileAt(level, number, width);
        const [bytes, wanted] = [await this.read(path), await this.firstOf(present, tile.width)];
        require(bytes.length <= wanted.length, "the file's size is wrong", path);
        const differs = wanted.findIndex((byte, at) => byte !== bytes[at]);
        const place = `${path}, byte ${differs}`;
        require(differs < 0, `not how ${present.path} begins`, place);
      }
    }

    async firstOf(tile, width) {
      const bytes = await this.read(tile.path);
      if (tile.level !== ENTRIES) return bytes.subarray(0, width * HASH_SIZE);
      let end = 0;
      for (let item = 0; item < width; item += 1) {
        end += 2 + bytes[end] * 256 + bytes[end + 1];
      }
      return bytes.subarray(0, end);
    }
  }

  // The root over a row of full subtrees, their largest groups first, and what stands to
  // the right of them (null: nothing).
  async function foldEdge(row, right) {
    let root = right;
    let end = row.length;
    for (let group = 1; end > 0; group *= 2) {
      if (!(row.length & group)) continue;
      const left = await rootOf(row.slice(end - group, end));
      root = root ? await nodeHash(left, root) : left;
      end -= group;
    }
    return root;
  }

  // What the entries so far demand of the next one.
  class History {
    constructor(origin) {
      this.origin = origin;
      this.time = 0n;
      this.boots = new Set();
      this.boot = null; // the one that runs
      this.number = 0n; // of its next batch
      this.counts = new Map(); // entries by kind
      this.contracts = new Contracts(signatureHolds, isDeviceKey);
      this.keys = new Map(); // of the devices that sign
    }

    // A new key belongs to a device that signs, and is a key, and is new.
    takeDevice(type, map, place) {
      const device = hex(map.get(1n));
      if (type === DEVICE_KEY) {
        const [before, key] = [this.keys.get(device), map.get(3n)];
        require(before, "a new key of a device that signs nothing", place);
        require(!equal(before, key), "a new key that is the one before", place);
        require(isDeviceKey(key), "the device's key is not a proper one", place);
        this.keys.set(device, key);
      } else if (type === ENROLMENT && map.has(4n)) this.keys.set(device, map.get(4n));
      else this.keys.delete(device);
    }

    async take(index, { type, name, map, time }, place) {
      const epoch = type === EPOCH;
      require(epoch === (index === 0n), "entry 0, and no other, is the epoch start", place);
      if (epoch) require(map.get(1n) === this.origin, "the epoch is of another origin", place);
      require(time >= this.time, "the time goes back", place);
      this.time = time;
      if (type === START) {
        this.boot = hex(map.get(1n));
        require(!this.boots.has(this.boot), "a boot id comes for the second time", place);
        this.boots.add(this.boot);
        this.number = 0n;
        this.contracts.checkStart(map.get(7n), place);
      } else if (type === BATCH || type === TICK) {
        const ours = hex(map.get(1n)) === this.boot;
        require(ours, "the boot id is not that of the last gateway start", place);
      }
      if (type === BATCH) {
        require(map.get(2n) === this.number, `batch ${this.number} is due`, place);
        this.number += 1n;
      }
      if ([ENROLMENT, REVOCATION, DEVICE_KEY].includes(type)) {
        this.takeDevice(type, map, place);
      }
      await this.contracts.take(type, map, place);
      this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
    }
  }

  async function directoryFacts(read, key, list) {
    const note = await read("checkpoint");
    require(note, "the file is missing", "checkpoint");
    const checkpoint = await checkCheckpoint(note, key, "checkpoint");
    const ledger = new Ledger(read, checkpoint);
    await ledger.checkEdge();
    for (let level = levelsOf(checkpoint.size) - 2; level >= 0; level -= 1) {
      await ledger.checkFullTiles(level);
    }
    const counts = await ledger.checkEntries();
    if (list) await ledger.checkOtherFiles(await list());
    return { ...checkpoint, counts };
  }

  // ---- the verdict ----------------------------------------------------------------------

  async function judge(vkey, work) {
    const key = vkey == null ? null : await parseVkey(vkey);
    try {
      const { missing, ...facts } = await work(key);
      const lacking = [key ? "" : "the log's key", missing ?? ""].filter(Boolean);
      if (!lacking.length) return { verdict: "OK", ...facts };
      return { verdict: "NOT ENOUGH", missing: lacking.join("; "), ...facts };
    } catch (problem) {
      if (!(problem instanceof Refused)) throw problem;
      return { verdict: "REFUSED", reason: problem.reason, place: problem.place };
    }
  }

  // vkey: the log's key as `iomt ledger vkey` prints it, or null. deviceKey: the device's
  // public key as 64 hex digits, or null. Both have to come from elsewhere than the proof.
  async function verifyProof(bytes, vkey, deviceKey) {
    const pinned = deviceKey == null ? null : parseDeviceKey(deviceKey);
    return judge(vkey, (key) => proofFacts(bytes, key, pinned));
  }

  function parseDeviceKey(text) {
    const key = /^([0-9a-fA-F]{64}|04[0-9a-fA-F]{128})$/.test(text) ? bytesOfHex(text) : null;
    if (!key || !isDeviceKey(key)) throw new RangeError("not a device's key in hex digits");
    return key;
  }

  // read(path): the file's bytes or null. list(): every path there is; without it (a web
  // server) a file too many cannot be seen.
  const verifyDirectory = (read, vkey, list) =>
    judge(vkey, (key) => directoryFacts(read, key, list));

  globalThis.iomtVerifier = Object.freeze({ verifyProof, verifyDirectory });
})();
