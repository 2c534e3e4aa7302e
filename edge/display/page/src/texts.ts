// Every word that the page shows. Another language is another of these.

export const TEXTS = {
  // Stand in index.html as {{name}}.
  fixed: {
    product: "Foldsight",
    stage: "What the camera sees",
    score: "Score",
    scoreHint: "of this frame, 0 to 1",
    age: "Frame age",
    connection: "Connection",
    adapter: "Adapter",
    history: "Last minute",
    model: "Model",
    notice: "Research software \u2013 not a medical device; no diagnosis",
    noScript: "This page needs JavaScript to show live results.",
    starting: "Starting",
  },

  // What a label of the bundle is called when it is the state.
  labels: { folds: "Folds in view", no_folds: "Folds not in view" } as Record<string, string>,

  headline: {
    in_view: "Finding in view",
    not_in_view: "Not in view",
    uncertain: "Uncertain",
    no_signal: "No signal",
    stale: "Not live",
    waiting: "Waiting for images",
    offline: "Adapter offline",
    stopped: "Adapter stopped",
    disconnected: "Connection lost",
    refused: "Not allowed",
    connecting: "Connecting",
    paused: "Paused",
  },

  detail: {
    in_view: (time: string) => `for ${time}`,
    not_in_view: (time: string) => `for ${time}`,
    justNow: "since just now",
    uncertain: "The image gives no clear answer",
    no_signal: "No usable camera image",
    stale: (time: string) => `Last result ${time} ago`,
    staleNothing: "No live result has arrived",
    waiting: "The adapter is there, no result yet",
    offline: "The adapter is switched off or out of reach",
    stopped: "The program on the adapter was stopped",
    disconnected: "Reconnecting to the adapter",
    refused: "The adapter does not admit this phone",
    connecting: "Looking for the adapter",
    paused: "This page was in the background",
    noSettings: "The adapter's web server does not answer",
  },

  // Reasons as they come on the wire; one that is missing here is shown as it came.
  reasons: {
    between: "The score is between yes and no",
    blank: "Image is blank",
    blurred: "Image is blurred",
    connection_lost: "The adapter is switched off or out of reach",
    dark: "Image is too dark",
    ended: "The recording has ended",
    failed: "The program on the adapter failed; its log says why",
    fogged: "Lens is fogged",
    frozen: "The camera image is frozen",
    no_frames: "The camera sends no images",
    "latency budget not kept": "Results are late: the adapter is too busy",
    out_of_body: "No tissue in view",
    over_exposed: "Image is over-exposed",
    settling: "Gathering enough clear images",
    source_ended: "The recording has ended",
    "source lost": "The camera does not answer",
    source_lost: "The camera does not answer",
    source_opening: "The camera is starting",
    source_stopped: "The camera was stopped",
    starting: "The adapter is starting",
    throttled: "The adapter is slowed down by heat or power",
    temperature_limit: "The adapter is too hot",
    unfamiliar: "Unlike anything the model knows",
    under_voltage: "The adapter's power supply is too weak",
  } as Record<string, string>,

  link: {
    connecting: "Connecting",
    connected: "Connected",
    disconnected: "Lost",
    refused: "Refused",
    paused: "Paused",
  },

  device: {
    online: "Online",
    degraded: "Degraded",
    stopped: "Stopped",
    offline: "Offline",
    unknown: "Unknown",
  },

  live: "Live",
  notLive: "Not live",
  degraded: "Adapter degraded",
  none: "\u2013",

  milliseconds: (value: number) => `${value} ms`,
  seconds: (value: string) => `${value} s`,
  minutes: (minutes: number, seconds: string) => `${minutes} min ${seconds} s`,
  longAgo: "over an hour",

  historySummary: (inView: number) => `in view ${inView} % of the time`,

  // Spoken by a screen reader when the state changes.
  spoken: (headline: string, detail: string) => (detail ? `${headline}. ${detail}.` : `${headline}.`),
  title: (headline: string) => `${headline} \u00b7 Foldsight`,
};

export type Texts = typeof TEXTS;
