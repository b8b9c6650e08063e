// Decodes the packed arrays of the server: base64 of rows, one row a frame. See the description of the API.

export function decode(part, model) {
  const n = part.frames;
  const encoder = bits(part.encoder, n, model.encoder.planes * model.encoder.width);
  const layers = {};
  for (const layer of model.layers) {
    if (part.layers[layer.name] !== undefined) layers[layer.name] = bits(part.layers[layer.name], n, layer.neurons);
  }
  return {
    n,
    first: part.end_s,
    hop: model.features.hop_s,
    mel: bytes(part.mel),
    encoder,
    layers,
    membranes: new Int8Array(bytes(part.membranes).buffer),
    means: bytes(part.means),
    scores: bytes(part.scores),
  };
}

export function bytes(text) {
  const binary = atob(text);
  const found = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) found[i] = binary.charCodeAt(i);
  return found;
}

// Rows of bits, packed into bytes.
function bits(text, frames, neurons) {
  const data = bytes(text);
  const stride = Math.ceil(neurons / 8);
  return { data, stride, frames, neurons };
}

export function spikes(rows, frame) {
  let count = 0;
  for (let i = frame * rows.stride, end = i + rows.stride; i < end; i++) count += ONES[rows.data[i]];
  return count;
}

const ONES = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);
