// Runs the models of a list in ONNX Runtime and compares what they give with what is expected.
//   node run_models.cjs DIRECTORY_OF_ONNXRUNTIME LIST [--time]
// LIST is a JSON file: [{name, model, tolerance, inputs: [tensor], expected: tensor}, ..], where a tensor is
// {name, type, shape, file}: little-endian numbers in a file beside the list. Prints a line for each, with --time the
// least milliseconds of a run too, on one thread; exits with 1 if one differs by more than its tolerance, relative to the
// largest number that is expected if that is above 1.
'use strict';
const fs = require('fs');
const path = require('path');
const [directory, list, option] = process.argv.slice(2);
const runtime = require(path.join(path.resolve(directory), 'node_modules', 'onnxruntime-node'));

const arrays = {float32: Float32Array, float64: Float64Array, int64: BigInt64Array};

function read(tensor) {
  const bytes = fs.readFileSync(path.join(path.dirname(list), tensor.file));
  const copy = new Uint8Array(bytes).buffer;  // aligned
  return new runtime.Tensor(tensor.type, new arrays[tensor.type](copy), tensor.shape);
}

async function leastMilliseconds(session, feeds) {
  let least = Infinity;
  const end = performance.now() + 400;
  for (let run = 0; run < 20 || performance.now() < end; ++run) {
    const start = performance.now();
    await session.run(feeds);
    least = Math.min(least, performance.now() - start);
  }
  return least;
}

async function main() {
  const sessions = new Map();
  let failures = 0;
  for (const entry of JSON.parse(fs.readFileSync(list, 'utf8'))) {
    if (!sessions.has(entry.model)) {
      const file = path.join(path.dirname(list), entry.model);
      sessions.set(entry.model, await runtime.InferenceSession.create(
          file, {intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3}));
    }
    const session = sessions.get(entry.model);
    const feeds = {};
    for (const input of entry.inputs) feeds[input.name] = read(input);
    const {output} = await session.run(feeds);
    const expected = read(entry.expected);
    let difference = JSON.stringify(output.dims) === JSON.stringify(entry.expected.shape) ? 0 : Infinity;
    let largest = 1;
    for (let i = 0; i < expected.data.length; ++i) {
      const apart = Math.abs(output.data[i] - expected.data[i]);
      difference = Number.isNaN(apart) ? Infinity : Math.max(difference, apart);
      largest = Math.max(largest, Math.abs(expected.data[i]));
    }
    const isRight = difference <= entry.tolerance * largest;
    if (!isRight) ++failures;
    let line = `${isRight ? '' : 'DIFFERS '}${entry.name} [${output.dims}]: ${difference.toExponential(1)}`;
    if (option === '--time') line += `, ${(await leastMilliseconds(session, feeds)).toFixed(4)} ms`;
    console.log(line);
  }
  if (failures > 0) {
    console.log(`${failures} differ`);
    process.exit(1);
  }
}

main().catch(error => {
  console.error(error.message);
  process.exit(1);
});
