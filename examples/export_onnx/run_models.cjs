// Runs the models of a list in ONNX Runtime and compares what they give with what is expected.
//   node run_models.cjs DIRECTORY_OF_ONNXRUNTIME LIST [--table]
// LIST is a JSON file: [{name, batch, model, inputs: [tensor], expected: tensor}, ..], where a tensor is {name, type,
// shape, file}: little-endian numbers in a file beside the list. Prints a line for each, or with --table a table of
// sizes, differences and the least milliseconds of a run on one thread. Exits with 1 if a number differs by more than
// 1e-5, of the largest that is expected if that is above 1.
'use strict';
const fs = require('fs');
const path = require('path');
const [directory, list, option] = process.argv.slice(2);
const runtime = require(path.join(path.resolve(directory), 'node_modules', 'onnxruntime-node'));

const arrays = {float32: Float32Array, float64: Float64Array, int64: BigInt64Array};
const beside = file => path.join(path.dirname(list), file);

function read(tensor) {
  const copy = new Uint8Array(fs.readFileSync(beside(tensor.file))).buffer;  // aligned
  return new runtime.Tensor(tensor.type, new arrays[tensor.type](copy), tensor.shape);
}

function bytesOf(model) {
  const data = beside(`${model}.data`);
  return fs.statSync(beside(model)).size + (fs.existsSync(data) ? fs.statSync(data).size : 0);
}

async function leastMilliseconds(session, feeds) {
  let least = Infinity;
  const end = performance.now() + 1000;
  for (let run = 0; run < 20 || performance.now() < end; ++run) {
    const start = performance.now();
    await session.run(feeds);
    least = Math.min(least, performance.now() - start);
  }
  return least;
}

function compare(output, expected) {
  if (JSON.stringify(output.dims) !== JSON.stringify(expected.dims)) return {difference: Infinity, isRight: false};
  let difference = 0;
  let largest = 1;
  for (let i = 0; i < expected.data.length; ++i) {
    const apart = Math.abs(output.data[i] - expected.data[i]);
    difference = Number.isNaN(apart) ? Infinity : Math.max(difference, apart);
    largest = Math.max(largest, Math.abs(expected.data[i]));
  }
  return {difference, isRight: difference <= 1e-5 * largest};
}

function printTable(rows) {
  const batches = [...new Set(rows.map(row => row.batch))];
  console.log(`| model | file bytes | fed bytes | ${batches.map(batch => `ms at ${batch}`).join(' | ')} | difference |`);
  console.log(`| --- | ---: | ---: |${' ---: |'.repeat(batches.length + 1)}`);
  for (const name of new Set(rows.map(row => row.name))) {
    const own = rows.filter(row => row.name === name);
    const number = value => value.toLocaleString('en-US');
    const times = own.map(row => row.milliseconds.toFixed(3));
    const most = Math.max(...own.map(row => row.difference));
    console.log(`| ${name} | ${number(own[0].bytes)} | ${number(own[0].fed)} | ${times.join(' | ')} | ${most.toExponential(0)} |`);
  }
}

async function main() {
  const sessions = new Map();
  const rows = [];
  for (const entry of JSON.parse(fs.readFileSync(list, 'utf8'))) {
    if (!sessions.has(entry.model)) {
      sessions.set(entry.model, await runtime.InferenceSession.create(
          beside(entry.model), {intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3}));
    }
    const session = sessions.get(entry.model);
    const feeds = {};
    for (const input of entry.inputs) feeds[input.name] = read(input);
    const {output} = await session.run(feeds);
    const row = {name: entry.name, batch: entry.batch, ...compare(output, read(entry.expected))};
    rows.push(row);
    if (option === '--table') {
      row.bytes = bytesOf(entry.model);
      row.fed = entry.inputs.filter(input => input.name !== 'input')
          .reduce((sum, input) => sum + fs.statSync(beside(input.file)).size, 0);
      row.milliseconds = await leastMilliseconds(session, feeds);
    } else {
      console.log(`${row.isRight ? '' : 'DIFFERS '}${row.name}, batch ${row.batch}: ${row.difference.toExponential(1)}`);
    }
  }
  if (option === '--table') printTable(rows);
  const wrong = rows.filter(row => !row.isRight);
  if (wrong.length > 0) {
    console.log(`${wrong.length} of ${rows.length} differ, the first is ${wrong[0].name}, batch ${wrong[0].batch}`);
    process.exitCode = 1;
  }
}

main().catch(error => {
  console.error(error.message);
  process.exitCode = 1;
});
