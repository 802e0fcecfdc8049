// Compares two files of probabilities, a line of JSON {file, probabilities} for each file.
//   node compare_probabilities.cjs THEIRS OURS TOLERANCE
'use strict';
const fs = require('fs');

const [theirsPath, oursPath, tolerance] = process.argv.slice(2);
const read = (path) => fs.readFileSync(path, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
const theirs = read(theirsPath);
const ours = read(oursPath);
let largest = 0;
let failures = 0;
const fail = (text) => { console.log(text); failures += 1; };

if (theirs.length !== ours.length) fail(`${theirs.length} files against ${ours.length}`);
for (let i = 0; i < Math.min(theirs.length, ours.length); ++i) {
  const languages = Object.keys(theirs[i].probabilities);
  if (theirs[i].file !== ours[i].file || languages.length !== Object.keys(ours[i].probabilities).length) {
    fail(`${theirs[i].file}: ${languages.length} languages, ${ours[i].file}: ${Object.keys(ours[i].probabilities).length}`);
    continue;
  }
  for (const language of languages) {
    const difference = Math.abs(theirs[i].probabilities[language] - ours[i].probabilities[language]);
    if (!(difference <= Number(tolerance))) {
      fail(`${theirs[i].file}: ${language} ${theirs[i].probabilities[language]}, ours ${ours[i].probabilities[language]}`);
    }
    largest = Math.max(largest, difference);
  }
}
console.log(`${theirs.length} files, largest difference ${largest.toExponential(2)}`);
process.exit(failures > 0 ? 1 : 0);
