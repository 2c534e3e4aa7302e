// Every word that the page shows. Another language is another of these.

export const TEXTS = {
  // Stand in index.html as {{name}}.
  fixed: {
    product: "Foldsight",
    stage: "What the camera sees",
    score: "Score",
    scoreHint: "of this frame, 0 to 1",
    age: "Frame age",
    roundTrip: "Round trip",
    adapter: "Adapter",
    history: "Last minute",
    model: "Model",
    tools: "Tools",
    snapshot: "Snapshot",
    notes: "Notes",
    settings: "Settings",
    close: "Close",
    notesPrivate: "Kept on this phone only and never sent anywhere. Write no patient\u2019s name.",
    notesLabel: "Notes of this session",
    notesTime: "Insert time and state",
    notesClear: "Delete all",
    vibrate: "Vibrate when the answer changes",
    sound: "Sound when the answer changes",
    forget: "Forget this adapter",
    pairAgain: "Pair this phone again",
    pair: "Pair",
    back: "Back",
    phoneName: "Name of this phone",
    phoneNameHint: "So that it can be told apart in the adapter\u2019s list. Not a patient\u2019s.",
    codeLabel: "Address from the code",
    fingerprint: "Fingerprint of the adapter\u2019s authority",
    fingerprintHint: "The same as in the address below the code, and in the certificate that the phone was given (SHA-256).",
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
    refused: "The adapter does not admit this phone (any more)",
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
    over_current: "The adapter draws too much current",
    frequency_capped: "The adapter is slowed down by heat or power",
    throttled: "The adapter is slowed down by heat or power",
    temperature_limit: "The adapter is too hot",
    unfamiliar: "Unlike anything the model knows",
    under_voltage: "The adapter's power supply is too weak",
    unsupported: "It looks like folds, but no place in the image shows them",
  } as Record<string, string>,

  // What a place in the picture is called.
  regions: { folds: "Folds", glottis: "Glottis" } as Record<string, string>,

  picture: {
    sketch: "Sketch \u2013 no picture is sent",
    late: "No current picture",
    age: (ms: number) => `Picture ${ms}\u00a0ms\u00a0old`,
    described: (marked: readonly string[]) =>
      marked.length > 0 ? `Picture from the scope; marked: ${marked.join(", ")}` : "Picture from the scope; nothing is marked",
  },

  pairing: {
    title: (adapter: string) => `Pair this phone with ${adapter}`,
    nameIt: "The phone gets an account of its own, which can be withdrawn at the adapter at any time.",
    scan: "Scan the code that the adapter shows (foldsight pair) with the phone\u2019s camera, or paste its address here.",
    noCode: "This is not the address from a code: it ends with #pair= and a long word.",
    noName: "Give the phone a name first.",
    revoked: "The adapter does not admit this phone any more. A new code lets it in again.",
  },

  notes: { sure: "Delete all notes on this phone?" },
  settings: { sure: "Delete this phone\u2019s account for the adapter? It must be paired anew afterwards." },
  snapshotTaken: "Saved to this phone\u2019s downloads",

  health: {
    hot: (celsius: number) => `The adapter is hot (${celsius} \u00b0C)`,
    dropped: (percent: number) => `${percent} % of the frames are dropped`,
    recording: "Recording: pictures are kept on the adapter",
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
