// Where this phone is not admitted yet, or not any more: asks for the code and a name, and gives the new account.

import type { Credential } from "./link";
import { type Invitation, pair, readInvitation } from "./pairing";
import { find } from "./sheets";
import { TEXTS } from "./texts";

export class Welcome {
  private readonly panel = find("welcome", HTMLElement);
  private readonly form = find("welcome-form", HTMLFormElement);
  private readonly name = find("welcome-name", HTMLInputElement);
  private readonly code = find("welcome-code", HTMLInputElement);
  private readonly problem = find("welcome-problem", HTMLElement);
  private readonly button = find("welcome-pair", HTMLButtonElement);
  private readonly back = find("welcome-back", HTMLButtonElement);
  private invitation: Invitation | null = null;
  private done: (account: Credential | null) => void = () => undefined;

  constructor() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.submit();
    });
    this.back.addEventListener("click", () => this.close(null));
  }

  /**
   * Ask, until an account was given.
   *
   * @param adapter what the adapter calls itself
   * @param invitation from the code's address; null: the person has yet to scan it, or paste its address
   * @param why what happened; empty where nothing did
   * @param optional whether there is something to go back to: gives null then
   */
  ask(adapter: string, invitation: Invitation | null, why: string, optional: boolean): Promise<Credential | null> {
    this.invitation = invitation;
    this.write("welcome-title", TEXTS.pairing.title(adapter));
    this.write("welcome-words", invitation === null ? TEXTS.pairing.scan : TEXTS.pairing.nameIt);
    find("welcome-code-row", HTMLElement).hidden = invitation !== null;
    this.code.required = invitation === null;
    find("welcome-ca", HTMLElement).hidden = invitation === null || invitation.ca === "";
    this.write("welcome-ca-value", (invitation?.ca ?? "").replace(/[^0-9A-Fa-f]/g, "").replace(/(.{4})(?=.)/g, "$1 "));
    this.say(why);
    this.back.hidden = !optional;
    this.panel.hidden = false;
    document.body.dataset["welcome"] = "true";
    (invitation === null ? this.code : this.name).focus();
    return new Promise((resolve) => {
      this.done = resolve;
    });
  }

  private close(account: Credential | null): void {
    this.panel.hidden = true;
    delete document.body.dataset["welcome"];
    this.code.value = "";
    this.invitation = null;
    this.done(account);
  }

  private async submit(): Promise<void> {
    const invitation = this.invitation ?? readInvitation(this.code.value);
    const name = this.name.value.trim();
    if (invitation === null) {
      this.say(TEXTS.pairing.noCode);
      return;
    }
    if (name === "") {
      this.say(TEXTS.pairing.noName);
      return;
    }
    this.button.disabled = true;
    this.say("");
    const answer = await pair(invitation.token, name, TEXTS.detail.noSettings);
    this.button.disabled = false;
    if ("account" in answer) {
      this.close(answer.account);
    } else {
      this.say(answer.problem);
    }
  }

  private say(problem: string): void {
    this.problem.textContent = problem;
    this.problem.hidden = problem === "";
  }

  private write(id: string, words: string): void {
    find(id, HTMLElement).textContent = words;
  }
}
