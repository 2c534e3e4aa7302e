// The sheets that slide over the lower part of the page: notes and settings. The answer stays in sight above them.

import { type Alerter, canVibrate } from "./alerts";
import { stamp } from "./snapshot";
import { TEXTS } from "./texts";

const NOTES = "foldsight.notes";

export function openers(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-opens]")) {
    const sheet = find(button.dataset["opens"] ?? "", HTMLDialogElement);
    button.addEventListener("click", () => {
      document.body.dataset["sheet"] = sheet.id;
      sheet.showModal();
    });
    sheet.addEventListener("close", () => delete document.body.dataset["sheet"]);
    // Beside the sheet is outside of it.
    sheet.addEventListener("click", (event) => {
      if (event.target === sheet) sheet.close();
    });
  }
}

export function notes(headline: () => string): void {
  const text = find("notes-text", HTMLTextAreaElement);
  const keep = (): void => {
    try {
      if (text.value === "") localStorage.removeItem(NOTES);
      else localStorage.setItem(NOTES, text.value);
    } catch {
      // lasts as long as the page
    }
  };
  try {
    text.value = localStorage.getItem(NOTES) ?? "";
  } catch {
    text.value = "";
  }
  text.addEventListener("input", keep);
  find("notes-time", HTMLButtonElement).addEventListener("click", () => {
    const line = `${text.value !== "" && !text.value.endsWith("\n") ? "\n" : ""}${stamp(new Date()).slice(11)} ${headline()}: `;
    text.setRangeText(line, text.selectionEnd, text.selectionEnd, "end");
    keep();
    text.focus();
  });
  const clear = find("notes-clear", HTMLButtonElement);
  clear.addEventListener("click", () => {
    if (text.value === "" || !window.confirm(TEXTS.notes.sure)) return;
    text.value = "";
    keep();
  });
}

export function settings(alerter: Alerter): void {
  const vibrate = find("alert-vibrate", HTMLInputElement);
  const sound = find("alert-sound", HTMLInputElement);
  vibrate.checked = alerter.settings.vibrate;
  sound.checked = alerter.settings.sound;
  if (!canVibrate) (vibrate.closest("label") as HTMLElement).hidden = true;
  const set = (): void => alerter.set({ vibrate: vibrate.checked, sound: sound.checked });
  vibrate.addEventListener("change", set);
  sound.addEventListener("change", set);
}

export function find<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`index.html has no #${id} of the right kind`);
  return found;
}
