// Which contracts the log says are active: section 12 of docs/ledger-format.md, the entries
// authority, contract proposal, contract approval and contract step in their order.
"use strict";
(() => {
  const { require, hex, utf8, equal } = globalThis.iomtFormat;
  const [AUTHORITY, PROPOSAL, APPROVAL, STEP] = [7, 8, 9, 10];
  const ACTIVATE = 1n;
  // step -> the word that is signed for it, from where it leads, and whereto
  const STEPS = new Map([
    [ACTIVATE, { word: "activate", from: ["proposed"], to: "active" }],
    [2n, { word: "suspend", from: ["active"], to: "suspended" }],
    [3n, { word: "resume", from: ["suspended"], to: "active" }],
    [4n, { word: "revoke", from: ["proposed", "active", "suspended"], to: "revoked" }],
  ]);

  class Contracts {
    // holds(key, signature, message): a promise of whether; isKey(key): fit to be enrolled
    constructor(holds, isKey) {
      this.holds = holds;
      this.isKey = isKey;
      this.scope = null;
      this.quorum = 0n;
      this.approvers = new Map(); // name -> public key
      this.proposals = new Map(); // sequence -> what became of it
      this.newest = 0n;
    }

    async take(type, map, place) {
      if (type === AUTHORITY) this.takeAuthority(map, place);
      else if (type === PROPOSAL) this.takeProposal(map, place);
      else if (type === APPROVAL) await this.takeApproval(map, place);
      else if (type === STEP) await this.takeStep(map, place);
    }

    // Where approvals decide, a start names just what they made active.
    checkStart(hashes, place) {
      if (!this.quorum) return;
      const active = [...this.proposals.values()].filter((one) => one.status === "active");
      const ours = new Set(active.map((one) => one.contract));
      const theirs = new Set(hashes.map(hex));
      const same = ours.size === theirs.size && [...ours].every((one) => theirs.has(one));
      require(same, "the start names other contracts than were activated", place);
    }

    takeAuthority(map, place) {
      const [scope, quorum, listed] = [map.get(1n), map.get(3n), map.get(4n)];
      const names = new Set(listed.map(([name]) => name));
      const keys = new Set(listed.map(([, key]) => hex(key)));
      const once = names.size === listed.length && keys.size === listed.length;
      require(once && !names.has(""), "an approver's name or key comes twice", place);
      const fits = quorum <= listed.length && (quorum > 0n || !listed.length);
      require(fits, "a quorum that the approvers cannot be", place);
      require(!scope.includes("\n"), "a scope of more than one line", place);
      for (const [, key] of listed) require(this.isKey(key), "an approver's key", place);
      require(this.scope === null || this.scope === scope, "another scope than before", place);
      [this.scope, this.quorum, this.approvers] = [scope, quorum, new Map(listed)];
    }

    takeProposal(map, place) {
      const sequence = map.get(1n);
      require(sequence > this.newest, "a proposal's sequence is not above those before", place);
      this.newest = sequence;
      this.proposals.set(sequence, {
        sequence, contract: hex(map.get(3n)), name: map.get(4n), status: "proposed",
        approvals: new Map(), steps: 0n, wasActive: false,
      });
    }

    async takeApproval(map, place) {
      const proposal = this.proposalOf(map, place);
      const approver = map.get(4n);
      require(proposal.status === "proposed", `the proposal is ${proposal.status}`, place);
      const key = this.keyOf(approver, place);
      const before = proposal.approvals.get(approver);
      require(!before || !equal(before, key), "an approver has approved before", place);
      await this.checkSignature("approve", proposal, 0n, key, map.get(5n), place);
      proposal.approvals.set(approver, key);
    }

    async takeStep(map, place) {
      const proposal = this.proposalOf(map, place);
      const { word, from, to } = STEPS.get(map.get(4n));
      require(from.includes(proposal.status), `the proposal is ${proposal.status}`, place);
      if (map.get(4n) === ACTIVATE) {
        this.activate(proposal, place);
      } else {
        const key = this.keyOf(map.get(5n), place);
        await this.checkSignature(word, proposal, proposal.steps, key, map.get(6n), place);
      }
      proposal.status = to;
      proposal.steps += 1n;
    }

    activate(proposal, place) {
      require(this.quorum > 0n, "there is no authority that could have approved it", place);
      const good = [...proposal.approvals].filter(([name, key]) => {
        const now = this.approvers.get(name);
        return now && equal(now, key);
      });
      const enough = BigInt(good.length) >= this.quorum;
      require(enough, `${good.length} of the ${this.quorum} approvals that it needs`, place);
      const others = [...this.proposals.values()].filter((one) => one.name === proposal.name);
      const newer = others.some((one) => one.wasActive && one.sequence > proposal.sequence);
      require(!newer, "a newer proposal of this contract was active", place);
      for (const one of others) {
        if (one.status === "active" || one.status === "suspended") one.status = "replaced";
      }
      proposal.wasActive = true;
    }

    proposalOf(map, place) {
      const proposal = this.proposals.get(map.get(1n));
      require(proposal, "there is no such proposal", place);
      require(proposal.contract === hex(map.get(3n)), "a proposal of another contract", place);
      return proposal;
    }

    keyOf(approver, place) {
      const key = this.approvers.get(approver);
      require(key, "a signer who is no approver", place);
      return key;
    }

    async checkSignature(word, proposal, number, key, signature, place) {
      const { sequence, contract } = proposal;
      const lines = ["iomt/contract/v1", word, this.scope, sequence, contract, number, ""];
      const good = await this.holds(key, signature, utf8(lines.join("\n")));
      require(good, "a signature that is not the approver's for this", place);
    }
  }

  globalThis.iomtContracts = Object.freeze({ Contracts });
})();
