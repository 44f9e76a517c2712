// Lists of a bundle's ONNX graph in Node: node recommend.mjs BUNDLE ITEM [ITEM ...]
// Needs onnxruntime-node; its install script downloads what only GPUs need, which ONNXRUNTIME_NODE_INSTALL=skip leaves out.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

const [bundle, ...history] = process.argv.slice(2);

// items.safetensors: length of the header, the header in JSON, bytes. Texts lie one behind the other.
const file = readFileSync(join(bundle, "items.safetensors"));
const begin = 8 + Number(file.readBigUInt64LE(0));
const header = JSON.parse(file.toString("utf8", 8, begin));
const part = (name) => header[name].data_offsets.map((offset) => begin + offset);
const [text] = part("tokens.text");
const [starts, end] = part("tokens.starts");
const tokens = [];
for (let at = starts; at + 8 < end; at += 8) {
  const [first, last] = [file.readBigInt64LE(at), file.readBigInt64LE(at + 8)].map(Number);
  tokens.push(file.toString("utf8", text + first, text + last));
}
const number = new Map(tokens.map((token, place) => [token, place]).slice(1)); // 0 is padding

const longest = JSON.parse(readFileSync(join(bundle, "bundle.json"), "utf8")).settings.max_history;
const known = history.map((item) => number.get(item)).filter((item) => item !== undefined).slice(-longest);
if (!known.length) throw new Error("None of these items is in the catalogue.");
const session = await ort.InferenceSession.create(join(bundle, "model.onnx"));
const histories = new ort.Tensor("int64", BigInt64Array.from(known, BigInt), [1, known.length]);
const { items, scores } = await session.run({ histories });
items.data.forEach((item, rank) => {
  // 0: no more were found
  if (item && !known.includes(Number(item))) console.log(`${tokens[Number(item)]}\t${scores.data[rank].toFixed(4)}`);
});
