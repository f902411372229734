// The face of the plain scripts for `import`, in Node and in a page's module.
import "./format.js";
import "./contracts.js";
import "./verify.js";
import "./words.js";

export const { verifyProof, verifyDirectory } = globalThis.iomtVerifier;
export const { describe } = globalThis.iomtWords;
