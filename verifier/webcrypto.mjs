// For Node 18, where WebCrypto is there but not under its global name.
import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto;
