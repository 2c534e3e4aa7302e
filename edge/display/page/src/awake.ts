// Keeps the screen on while the page is seen, where the browser allows it (it asks for https or localhost).

export function keepAwake(): void {
  const request = (): void => {
    if (document.visibilityState === "visible") {
      // A refusal, on a low battery for one, is the phone's right.
      navigator.wakeLock?.request("screen").catch(() => undefined);
    }
  };
  // The browser lets the lock go whenever the page is hidden.
  document.addEventListener("visibilitychange", request);
  request();
}
