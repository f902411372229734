// A verdict in words: what the checkpoint, the batch and a disclosed record say. Nothing here
// is checked; what is checked stands in verify.js. A plain script, after format.js.
//
//   describe(result)  -> an array of [label, text]; the text is a stranger's: show it as text
"use strict";
(() => {
  const { decodeCbor, hex } = globalThis.iomtFormat;
  const KINDS = ["count", "reading", "firing", "timer tick", "assignment",
    "erasure", "transfer", "action", "contract's step", "event"];
  const FLAGS = ["late", "our clock was not synchronised", "backlog",
    "a value outside its plausible range", "no sensor contact", "typed in by a person"];
  // docs/wire-format.md section 1, by key
  const METRICS = [null, ["heart rate", "/min"], ["SpO2", "%"], ["body temperature", "°C"],
    ["respiratory rate", "/min"], ["systolic pressure", "mmHg"],
    ["diastolic pressure", "mmHg"], ["mean pressure", "mmHg"], ["glucose", "mg/dL"],
    ["weight", "kg"], ["ECG", "mV"], ["pulse rate", "/min"], ["supplemental oxygen", ""],
    ["ACVPU", ""], ["battery", "%"], ["ambient temperature", "°C"], ["sensor contact", ""]];
  const ORIGINALS = new Map([
    [0n, ["leaves before padding", "messages received", "committed", "duplicates", "refused"]],
    [2n, ["contract", "contract's SHA-256", "rule", "priority", "phase", "saw", "detail",
      "subject", "at_ms", "to", "actor", "paused", "until_ms"]],
    [3n, []],
    [4n, ["assignment", "device", "patient", "patient without a device by this"]],
    [7n, ["action", "contract", "rule or param", "subject", "actor", "role", "until_ms",
      "value"]],
    [8n, ["step", "proposal", "contract's SHA-256"]],
    [9n, ["what", "first sequence missing", "last sequence missing", "will"]],
  ]);

  function time(ms) {
    const date = new Date(Number(ms));
    return Number.isNaN(date.getTime()) ? `${ms} ms` : date.toISOString();
  }

  // An exact decimal: a CBOR integer, or tag 4 with exponent and mantissa.
  function number(value) {
    if (typeof value !== "object") return String(value);
    const [exponent, mantissa] = value.value.map(Number);
    return (mantissa * 10 ** exponent).toFixed(Math.max(0, -exponent));
  }

  function value(item) {
    if (item instanceof Uint8Array) return hex(item);
    if (item instanceof Map) return [...item].map(([k, v]) => `${k} = ${value(v)}`).join(", ");
    return String(item);
  }

  // The signed envelope of a device, or null for SenML, a GATT value or anything else.
  function envelope(bytes) {
    try {
      const { tag, value: parts } = decodeCbor(bytes);
      const payload = decodeCbor(parts[2]);
      if (tag !== 18n || !Array.isArray(payload.get(5n))) return null;
      const lines = [["sequence", String(payload.get(3n))],
        ["device's time", time(payload.get(4n))]];
      payload.get(5n).forEach((reading, place) => {
        const words = [...reading].filter(([key]) => key !== 0n).map(([key, item]) => {
          const [name, unit] = METRICS[Number(key)];
          return `${name} ${number(item)} ${unit}`.trim();
        });
        lines.push([`reading ${place}`, words.join(", ")]);
      });
      return lines;
    } catch {
      return null;
    }
  }

  function plain(bytes) {
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      return hex(bytes);
    }
  }

  function original(record) {
    const bytes = record.get(9n);
    const names = ORIGINALS.get(record.get(1n));
    if (!names) return envelope(bytes) ?? [["original", plain(bytes)]];
    try {
      return [...decodeCbor(bytes)].map(([key, item]) => [names[Number(key) - 1], value(item)]);
    } catch {
      return [["original", hex(bytes)]];
    }
  }

  function describeRecord(record, device) {
    const lines = [["record", KINDS[Number(record.get(1n))]]];
    const say = (label, key, text = String) => {
      if (record.has(key)) lines.push([label, text(record.get(key))]);
    };
    say("device", 2n);
    say("stream", 3n);
    say("received", 4n, time);
    say("link", 6n);
    say("Bluetooth address", 10n, (bytes) => hex(bytes).match(/../g).join(":"));
    const flags = FLAGS.filter((_, at) => record.get(7n) & (1n << BigInt(at)));
    lines.push(["flags", flags.join(", ") || "none"]);
    say("assignment", 8n, hex);
    if (record.get(1n) === 1n) {
      const signed = device ?? "the device signed it, which nobody checked: its key is missing";
      const received = "the gateway, for having received it";
      lines.push(["who vouches", record.get(5n) ? signed : received]);
    }
    return [...lines, ...original(record)];
  }

  function describe(result) {
    const lines = [];
    if (result.origin !== undefined) {
      lines.push(["log", result.origin], ["entries in the log", String(result.size)]);
      if (result.counts) {
        const counts = [...result.counts].sort().map(([name, count]) => `${count} ${name}`);
        lines.push(["of these", counts.join(", ")]);
      }
      for (const name of result.unchecked) lines.push(["not checked", `signature by ${name}`]);
    }
    if (result.batch) {
      const boot = hex(result.batch.get(1n)).slice(0, 12);
      lines.push(["entry", `${result.index}, a batch of ${time(result.batch.get(3n))}`]);
      lines.push(["leaf", `${boot}-${result.batch.get(2n)}-${result.leafIndex}`]);
      if (result.record) lines.push(...describeRecord(result.record, result.device));
      else lines.push(["record", "not disclosed"]);
    }
    const at = result.place ? ` [${result.place}]` : "";
    const why = result.reason ?? result.missing;
    lines.push(["verdict", why ? `${result.verdict}: ${why}${at}` : result.verdict]);
    return lines;
  }

  globalThis.iomtWords = Object.freeze({ describe });
})();
