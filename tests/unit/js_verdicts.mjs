// For test_js_verifier.py: one process that judges many cases with the second verifier.
// In: one JSON object a line, {proof: base64} or {files: {path: base64}}, with vkey and
// device (the device's key in hex), each a text or null.
// Out: one line each, {verdict, reason, place} or {error}.
import { createInterface } from "node:readline";
import "../../verifier/webcrypto.mjs";
import { verifyDirectory, verifyProof } from "../../verifier/verify.mjs";

const bytesOf = (text) => new Uint8Array(Buffer.from(text, "base64"));

function judge({ proof, files, vkey, device }) {
  if (proof !== undefined) return verifyProof(bytesOf(proof), vkey, device);
  const read = (path) => (Object.hasOwn(files, path) ? bytesOf(files[path]) : null);
  return verifyDirectory(read, vkey, () => Object.keys(files));
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { verdict, reason = null, place = null } = await judge(JSON.parse(line));
    answer = { verdict, reason, place };
  } catch (problem) {
    // Anything but a verdict is a failure of the test that asked, and told there.
    answer = { error: String(problem.stack) };
  }
  console.log(JSON.stringify(answer));
}
