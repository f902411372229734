// The page around verify.js: a key, a dropped proof or a chosen folder, the verdict in words.
"use strict";
(() => {
  const { verifyProof, verifyDirectory } = globalThis.iomtVerifier;
  const { describe } = globalThis.iomtWords;
  const CLASSES = { OK: "ok", REFUSED: "refused", "NOT ENOUGH": "open" };
  const element = (id) => document.getElementById(id);
  let again = null; // judges what was given last, when the key changes
  let turn = 0; // only the newest answer is shown

  function show(lines, style) {
    const [, verdict] = lines.pop();
    element("verdict").textContent = verdict;
    element("verdict").className = style;
    element("verdict").hidden = false;
    const facts = lines.flatMap(([label, text]) => {
      const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
      [term.textContent, detail.textContent] = [label, text];
      return [term, detail];
    });
    element("facts").replaceChildren(...facts);
  }

  async function judge(work) {
    again = work;
    turn += 1;
    const mine = turn;
    let lines;
    let style = "open";
    try {
      if (!globalThis.crypto?.subtle) {
        throw new RangeError("no WebCrypto here: open the page from the disk or over https");
      }
      const result = await work(element("vkey").value.trim() || null);
      lines = describe(result);
      style = CLASSES[result.verdict];
    } catch (problem) {
      // A wrong key, a file that the browser does not let us read: nothing was judged.
      lines = [["verdict", `CANNOT RUN: ${problem.message}`]];
    }
    if (mine === turn) show(lines, style);
  }

  const bytesOf = async (file) => new Uint8Array(await file.arrayBuffer());

  function judgeProof(file) {
    if (file) judge(async (vkey) => verifyProof(await bytesOf(file), vkey));
  }

  // The browser puts the folder's own name before each path.
  function judgeFolder(list) {
    const files = new Map(
      [...list].map((file) => [file.webkitRelativePath.replace(/^[^/]*\//, ""), file]),
    );
    const read = async (path) => (files.has(path) ? bytesOf(files.get(path)) : null);
    if (files.size) judge((vkey) => verifyDirectory(read, vkey, () => [...files.keys()].sort()));
  }

  element("proof").addEventListener("change", (event) => judgeProof(event.target.files[0]));
  element("folder").addEventListener("change", (event) => judgeFolder(event.target.files));
  element("vkey").addEventListener("input", () => again && judge(again));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    judgeProof(event.dataTransfer.files[0]);
  });
})();
