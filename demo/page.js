// The webcam of page.py: sends a frame, shows the answer, sends the next. Gradio gives `element` and `server`.
const LARGEST = 640; // pixels of the longer side
const [button, rate, video, picture, says, table] = ["button", ".rate", "video", "img", ".says", ".table"].map((name) =>
  element.querySelector(name)
);
const REFUSED = {
  NotAllowedError: "The browser does not let this page use the webcam: allow it beside the address, then start again.",
  NotFoundError: "There is no webcam.",
  NotReadableError: "The webcam is in use by another program.",
};
let stream = null;
let starting = false; // the button is not disabled meanwhile: it would lose the keyboard

button.addEventListener("click", () => {
  if (!starting) stream ? stop("") : start();
});

async function start() {
  starting = true;
  say("");
  try {
    const size = { width: { ideal: LARGEST }, height: { ideal: (LARGEST * 3) / 4 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: { ...size, facingMode: "user" } });
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    stop(REFUSED[error.name] ?? `The webcam does not start: ${error.message}`);
    return;
  } finally {
    starting = false;
  }
  button.textContent = "Stop the webcam";
  try {
    await follow(stream);
  } catch {
    stop("The program that serves this page does not answer: start it again, then reload the page.");
  }
}

function stop(why) {
  stream?.getTracks().forEach((track) => track.stop());
  stream = video.srcObject = null;
  button.textContent = "Start the webcam";
  rate.textContent = "";
  say(why);
}

function say(text) {
  if (says.textContent !== text) says.textContent = text; // screen readers read what changes
}

// While the server looks at one frame, this shows the last answer and takes the next frame.
async function follow(mine) {
  const visitor = crypto.randomUUID();
  const canvas = document.createElement("canvas");
  const draw = canvas.getContext("2d");
  const times = [];
  let last = -1;
  let answer = null;
  while (stream === mine) {
    await new Promise(requestAnimationFrame); // rests while the page is not seen
    if (element.offsetParent === null) return stop(""); // another tab of the page
    if (mine.getVideoTracks()[0].readyState === "ended") return stop("The webcam is gone.");
    if (video.currentTime === last) continue;
    last = video.currentTime;
    const scale = Math.min(1, LARGEST / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    draw.setTransform(-1, 0, 0, 1, canvas.width, 0); // as in a mirror
    draw.drawImage(video, 0, 0, canvas.width, canvas.height);
    const frame = { visitor, picture: canvas.toDataURL("image/jpeg", 0.85), ...window.chosen };
    const before = await answer;
    if (stream !== mine) return;
    answer = server.look(frame);
    answer.catch(() => {}); // it is told above, when it is waited for
    if (before) show(before, times);
  }
}

function show(answer, times) {
  say(answer.says);
  if (!answer.picture) return;
  picture.src = answer.picture;
  picture.alt = answer.alt;
  picture.hidden = false;
  table.innerHTML = answer.table;
  times.push(performance.now());
  if (times.length > 30) times.shift();
  const seconds = (times.at(-1) - times[0]) / 1000;
  if (times.length > 5) rate.textContent = `${Math.round((times.length - 1) / seconds)} frames/s`;
}
