// Classifies pictures with the network beside this page. Nothing is sent anywhere: the runtime's two files are fetched
// and checked against their hashes, the network is fetched from where the page is, pictures are read from the device.

const facts = JSON.parse(document.getElementById("facts").textContent);
const at = (id) => document.getElementById(id);
const [state, answer, picture] = [at("state"), at("answer"), at("picture")];
let session, tensor, busy = Promise.resolve(), shown;

function say(text, wrong = false) {
  state.textContent = text;
  state.classList.toggle("wrong", wrong);
}

async function load(url, integrity) {
  const response = await fetch(url, integrity ? { integrity } : {});
  if (!response.ok) throw new Error(`${url} answers ${response.status}`);
  return response.arrayBuffer();
}

async function start() {
  const { base, script, wasm } = facts.runtime;
  const [code, binary, model] = await Promise.all([
    load(base + script.name, script.integrity), load(base + wasm.name, wasm.integrity), load(facts.model),
  ]);
  const ort = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = 1; // several need headers that a static page can't send
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  tensor = (data, dims) => new ort.Tensor("uint8", data, dims);
  say("Ready for a picture.");
}

// As `nas-zoo predict` reads a file: upright by EXIF, colour profiles not applied, transparency dropped. Of a picture of
// more than facts.large pixels half the size is taken; of one that is long the middle.
async function pixels(blob) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(blob, options);
  const { width, height } = bitmap, most = facts.longest * Math.min(width, height);
  if (width * height > facts.most) throw new Error(`it has more than ${facts.most} pixels`);
  const [wide, high] = [Math.min(width, most), Math.min(height, most)];
  const half = wide * high > facts.large ? 2 : 1;
  const cut = [Math.trunc(wide / half), Math.trunc(high / half)];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = cut;
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  const [left, top] = [Math.trunc((width - wide) / 2), Math.trunc((height - high) / 2)];
  context.drawImage(bitmap, left, top, cut[0] * half, cut[1] * half, 0, 0, ...cut);
  const rgba = context.getImageData(0, 0, ...cut).data, count = cut[0] * cut[1];
  const data = new Uint8Array(facts.channels * count);
  for (let i = 0, from = 0, to = 0; i < count; i++, from += 4) {
    const [r, g, b] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (facts.channels === 1) data[to++] = (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16; // as Pillow makes grey
    else { data[to++] = r; data[to++] = g; data[to++] = b; }
  }
  bitmap.close();
  return tensor(data, [1, cut[1], cut[0], facts.channels]);
}

async function classify(blob) {
  if (!session) await ready;
  if (shown) URL.revokeObjectURL(shown);
  picture.src = shown = URL.createObjectURL(blob);
  picture.alt = `The picture ${blob.name ?? ""}`.trim();
  picture.hidden = false;
  at("hint").hidden = true;
  answer.replaceChildren();
  say("Looking …");
  try {
    const input = await pixels(blob);
    const begin = performance.now();
    const result = (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]].data;
    const ms = performance.now() - begin;
    const order = [...result.keys()].sort((a, b) => result[b] - result[a]);
    for (const index of order.slice(0, 5)) {
      const [line, name, part] = ["li", "span", "span"].map((tag) => document.createElement(tag));
      name.textContent = facts.classes[index];
      part.textContent = `${(100 * result[index]).toFixed(1)} %`;
      line.style.setProperty("--part", `${100 * result[index]}%`);
      line.append(name, part);
      answer.append(line);
    }
    await picture.decode().catch(() => {}); // it pushes the answer down
    window.found = { probabilities: [...result], ms };
    // isolated, or a name that is written from right to left would turn the rest round
    say(`\u2068${facts.classes[order[0]]}\u2069, ${(100 * result[order[0]]).toFixed(1)} %. The network took ${ms.toFixed(1)} ms.`);
    answer.parentElement.scrollIntoView({ block: "nearest" }); // on a phone it lies below the examples
  } catch (error) {
    window.found = { error: String(error.message ?? error) };
    say(`This picture can't be read here: ${error.message ?? error}`, true);
  }
}

const take = (blob) => blob && (busy = busy.then(() => classify(blob)));

at("file").addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
const drop = at("drop");
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => take(await (await fetch(button.dataset.example)).blob()));
}

const [viewfinder, video] = [at("viewfinder"), at("video")];
const stop = () => { for (const track of video.srcObject?.getTracks() ?? []) track.stop(); video.srcObject = null; };
if (navigator.mediaDevices?.getUserMedia) {
  at("camera").hidden = false;
  at("camera").addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      viewfinder.showModal();
      await video.play();
    } catch (error) {
      say(`There is no camera to use: ${error.message}`, true);
    }
  });
  at("snap").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob(take, "image/png");
    viewfinder.close();
  });
  at("close").addEventListener("click", () => viewfinder.close());
  viewfinder.addEventListener("close", stop);
}

const ready = start();
ready.catch((error) => {
  const local = location.protocol === "file:" ? " A browser reads no files from disk for a page: serve the folder, for instance with `python -m http.server`." : "";
  say(`The network could not be loaded: ${error.message}.${local}`, true);
});
