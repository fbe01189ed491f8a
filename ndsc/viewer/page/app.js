// The page: pictures of the newest frame, a border between two of them, curves, the rate, what the streams do.

const KINDS = {
  decoded: "with side information",
  without: "without side information",
  source: "source",
  side: "side information",
};
const REMEMBERED = 300; // frames of a curve
const FEWEST = 60; // frames that its width holds at least
const EVENTS = 60; // lines of the log

const $ = (id) => document.getElementById(id);

const state = {
  camera: null,
  cameras: new Map(), // name → { frame, points: [{ number, bpp, psnr, without }] }
  nodes: [],
  levels: null, // by bitstream
  streams: new Map(), // "kind name" → what it was
  pinned: null, // the frame that a pause holds
  loading: false,
};

// Pictures

function kinds() {
  const left = $("left").value;
  const right = $("right").value;
  const off = !$("side").checked;
  // With the switch off the decoder's picture is the one it makes without side information.
  const shown = (kind) => (off && kind === "decoded" ? "without" : kind);
  return { left: shown(left), right: shown(right) };
}

function address(frame, kind) {
  return `/api/frames/${encodeURIComponent(frame.camera)}/${frame.number}/${kind}`;
}

async function load(frame, kind) {
  const image = new Image();
  image.src = address(frame, kind);
  try {
    await image.decode();
  } catch {
    return null;
  }
  return image.src;
}

function wanted() {
  return state.pinned ?? state.cameras.get(state.camera)?.frame;
}

async function show() {
  const frame = wanted();
  if (!frame || state.loading) return;
  state.loading = true;
  $("viewport").dataset.loading = "true";
  const chosen = kinds();
  const [left, right] = await Promise.all([load(frame, chosen.left), load(frame, chosen.right)]);
  state.loading = false;
  if (frame.camera === state.camera) {
    place("left", chosen.left, left);
    place("right", chosen.right, right);
    const missing = [left ? null : chosen.left, right ? null : chosen.right].filter(Boolean);
    $("note").hidden = missing.length === 0;
    $("note").textContent = missing.length ? `no picture: ${[...new Set(missing)].map((k) => KINDS[k]).join(", ")}` : "";
    $("viewport").dataset.number = frame.number;
    facts(frame);
  }
  $("viewport").dataset.loading = "false";
  if (wanted() !== frame || changed(chosen)) show();
}

function pin(frame) {
  state.pinned = frame;
  // The viewer does not hold it for long: what may be looked at is fetched now, and the browser keeps it.
  if (frame) for (const kind of Object.keys(KINDS)) load(frame, kind);
}

function changed(chosen) {
  const now = kinds();
  return now.left !== chosen.left || now.right !== chosen.right;
}

function place(side, kind, source) {
  const image = $(`picture-${side}`);
  image.style.visibility = source ? "visible" : "hidden";
  if (source) image.src = source;
  image.alt = `${KINDS[kind]}, camera ${state.camera}`;
  $(`label-${side}`).textContent = KINDS[kind];
}

function facts(frame) {
  const side = frame.outcome === "paired"
    ? `side information of ${frame.stream}, ${frame.offset_ms >= 0 ? "+" : ""}${frame.offset_ms.toFixed(0)} ms`
    : `side information ${frame.outcome}`;
  $("facts").textContent =
    `frame ${frame.sequence} · level ${frame.rate_level} · ${frame.payload_bytes} bytes · ` +
    `${frame.payload_bpp.toFixed(4)} bpp · decoded in ${frame.decode_ms.toFixed(0)} ms · ${side}`;
}

function border() {
  const share = Number($("slider").value);
  $("picture-left").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
  $("divider").style.left = `${share}%`;
}

// Curves

function curve(svg, lines, digits) {
  const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
  const [most, least] = svg.parentElement.querySelectorAll("span");
  svg.replaceChildren();
  most.textContent = values.length ? Math.max(...values).toFixed(digits) : "";
  least.textContent = values.length ? Math.min(...values).toFixed(digits) : "";
  if (!values.length) return;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const span = high - low || 1;
  svg.setAttribute("viewBox", "0 0 300 100");
  for (const { name, values } of lines) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("class", name);
    const step = 300 / (Math.max(FEWEST, values.length) - 1);
    const points = values
      .map((value, i) => (value === null ? null : `${i * step},${95 - (90 * (value - low)) / span}`))
      .filter(Boolean);
    line.setAttribute("points", points.join(" "));
    svg.append(line);
  }
}

function curves() {
  const points = state.cameras.get(state.camera)?.points ?? [];
  curve($("bpp"), [{ name: "with", values: points.map((p) => p.bpp) }], 3);
  const quality = [
    { name: "with", values: points.map((p) => p.psnr) },
    { name: "without", values: points.map((p) => p.without) },
  ];
  curve($("psnr"), quality, 1);
  const last = points.at(-1);
  $("bpp-now").textContent = last ? last.bpp.toFixed(4) : "";
  const measured = points.findLast((p) => p.psnr !== null);
  $("psnr-now").textContent = !measured
    ? "the source is not known: no node offers it"
    : `${measured.psnr.toFixed(2)}${measured.without === null ? "" : `, without ${measured.without.toFixed(2)}`}`;
}

// The rate

function rates() {
  const node = state.nodes.find((one) => one.facts?.camera === state.camera)?.facts;
  const frame = state.cameras.get(state.camera)?.frame;
  const levels = (frame && state.levels?.[frame.bitstream]) ?? 1;
  $("rates").hidden = !node;
  if (!node) return;
  $("level").max = levels - 1;
  const rate = node.rate ?? {};
  let held = "starting";
  if ("rate_level" in rate) held = `level ${rate.rate_level}`;
  if ("target_kbps" in rate) held = `${rate.target_kbps} kbit/s`;
  if ("follow_link" in rate) held = "follows its link";
  $("rate-now").textContent = `${held}, ${(node.sent_kbps ?? 0).toFixed(1)} kbit/s sent`;
  if (document.activeElement !== $("level") && frame) $("level").value = frame.rate_level;
  $("level-now").textContent = $("level").value;
}

async function hold(rate) {
  try {
    const answer = await fetch(`/api/cameras/${encodeURIComponent(state.camera)}/rate`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(rate),
    });
    $("rate-error").textContent = answer.ok ? "" : await answer.text();
  } catch {
    $("rate-error").textContent = "the viewer does not answer";
  }
}

// Streams and events

function log(text) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  line.append(time, text);
  $("events").prepend(line);
  while ($("events").children.length > EVENTS) $("events").lastChild.remove();
}

function streams(list) {
  const rows = list.map((stream) => {
    const row = document.createElement("tr");
    row.className = stream.open ? "" : "closed";
    const cells = [
      `${stream.name}${stream.kind === "camera" ? "" : " (side information)"}`,
      stream.session, stream.received, stream.decoded, stream.failed, stream.dropped,
    ];
    row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    const key = `${stream.kind} ${stream.name}`;
    const before = state.streams.get(key);
    if (stream.open && (!before?.open || before.session !== stream.session)) log(`${key} opened session ${stream.session}`);
    if (before?.open && !stream.open) log(`${key} closed`);
    if (before && stream.failed > before.failed) log(`${key}: ${stream.failed - before.failed} frames failed`);
    if (before && stream.dropped > before.dropped) log(`${key}: ${stream.dropped - before.dropped} frames dropped`);
    state.streams.set(key, stream);
    return row;
  });
  $("streams").replaceChildren(...rows);
}

function connection(text, kind) {
  $("connection").textContent = text;
  $("connection").className = kind;
}

// Cameras

function choose(name) {
  state.camera = name;
  if (state.pinned) pin(state.cameras.get(name).frame);
  for (const radio of document.querySelectorAll("#cameras input")) radio.checked = radio.value === name;
  curves();
  rates();
  show();
}

function camera(name) {
  if (!state.cameras.has(name)) {
    state.cameras.set(name, { frame: null, points: [] });
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "camera", value: name });
    radio.addEventListener("change", () => choose(name));
    label.append(radio, ` ${name}`);
    $("cameras").append(label);
    $("cameras").hidden = state.cameras.size < 2;
    if (state.camera === null) choose(name);
  }
  return state.cameras.get(name);
}

// What comes from the server

const take = {
  decoder(event) {
    state.levels = event.rate_levels;
    if (event.connected) connection("connected to the decoder", "good");
    else connection(event.error ?? "waiting for the decoder", "bad");
  },
  frame(event) {
    const one = camera(event.camera);
    if (one.frame && event.number <= one.frame.number) return;
    one.frame = event;
    one.points.push({ number: event.number, bpp: event.payload_bpp, psnr: null, without: null });
    if (one.points.length > REMEMBERED) one.points.shift();
    if (event.camera === state.camera) {
      curves();
      rates();
      show();
    }
  },
  quality(event) {
    const point = state.cameras.get(event.camera)?.points.find((one) => one.number === event.number);
    if (!point) return;
    point.psnr = event.psnr_db;
    point.without = event.without_db;
    if (event.camera === state.camera) curves();
  },
  streams(event) {
    streams(event.streams);
  },
  nodes(event) {
    for (const node of event.nodes) {
      const before = state.nodes.find((one) => one.address === node.address);
      if (node.error && node.error !== before?.error) log(`node ${node.address}: ${node.error}`);
    }
    state.nodes = event.nodes;
    rates();
  },
  missed(event) {
    log(`the viewer was too slow and missed ${event.frames} pictures`);
  },
};

function listen() {
  const source = new EventSource("/api/events");
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    take[event.type]?.(event);
  };
  source.onerror = () => connection("the viewer does not answer; trying again", "bad");
}

for (const side of ["left", "right"]) {
  for (const [kind, text] of Object.entries(KINDS)) $(side).append(new Option(text, kind));
  $(side).addEventListener("change", show);
}
$("left").value = "without";
$("right").value = "decoded";
$("side").addEventListener("change", show);
$("slider").addEventListener("input", border);
$("pause").addEventListener("click", () => {
  pin(state.pinned ? null : wanted() ?? null);
  $("pause").setAttribute("aria-pressed", state.pinned !== null);
  $("pause").textContent = state.pinned ? "Go on" : "Pause";
  show();
});
$("level").addEventListener("input", () => ($("level-now").textContent = $("level").value));
$("level").addEventListener("change", () => hold({ rate_level: Number($("level").value) }));
$("target").addEventListener("submit", (event) => {
  event.preventDefault();
  hold({ target_kbps: Number($("kbps").value) });
});
$("follow").addEventListener("click", () => hold({ follow_link: true }));
border();
listen();
