// node verifier/cli.mjs PATH [--vkey V]
//
// PATH is a ledger directory or a .tlog-proof. The exit status is that of `iomt verify`:
// 0 verified, 1 refused, 2 cannot run, 3 not enough.
import { lstat, readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import "./webcrypto.mjs";
import { describe, verifyDirectory, verifyProof } from "./verify.mjs";

const STATUS = { OK: 0, REFUSED: 1, "NOT ENOUGH": 3 };
const CANNOT_RUN = 2;
const USAGE = "usage: node verifier/cli.mjs PATH [--vkey VKEY]";

// A regular file's bytes; null when there is none. A link is none: what it points to can be
// another thing tomorrow.
async function readRegular(path) {
  try {
    if (!(await lstat(path)).isFile()) return null;
    return new Uint8Array(await readFile(path));
  } catch (problem) {
    if (problem.code === "ENOENT" || problem.code === "ENOTDIR") return null;
    throw problem;
  }
}

// Every file and link below the directory, a folder's own files before its folders.
async function listFiles(top, below = "") {
  const found = await readdir(join(top, below), { withFileTypes: true });
  found.sort((one, other) => (one.name < other.name ? -1 : 1));
  const files = found.filter((one) => !one.isDirectory()).map((one) => below + one.name);
  for (const one of found) {
    if (one.isDirectory()) files.push(...(await listFiles(top, `${below}${one.name}/`)));
  }
  return files;
}

async function verifyPath(path, vkey) {
  if (!(await stat(path)).isDirectory()) {
    return verifyProof(new Uint8Array(await readFile(path)), vkey);
  }
  const read = (name) => readRegular(join(path, name));
  return verifyDirectory(read, vkey, () => listFiles(path));
}

// Names in here are a stranger's: what could steer a terminal is written out.
const shown = (text) =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);

async function main() {
  const { values, positionals } = parseArgs({
    options: { vkey: { type: "string" } },
    allowPositionals: true,
  });
  if (positionals.length !== 1) throw new RangeError(USAGE);
  const result = await verifyPath(positionals[0], values.vkey);
  for (const [label, text] of describe(result)) console.log(shown(`${label}: ${text}`));
  return STATUS[result.verdict];
}

try {
  process.exitCode = await main();
} catch (problem) {
  // A wrong argument, a file that cannot be read: nothing was judged, and that is said.
  console.error(shown(`CANNOT RUN: ${problem.message}`));
  process.exitCode = CANNOT_RUN;
}
