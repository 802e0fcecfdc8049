// Prints what the npm package itself makes of files: one line of JSON each, {file, probabilities by language}.
//   node package_probabilities.cjs PACKAGE_DIRECTORY FILE...
'use strict';
const fs = require('fs');
const path = require('path');

const [packageDirectory, ...files] = process.argv.slice(2);
const { ModelOperations } = require(path.resolve(packageDirectory));

(async () => {
  const operations = new ModelOperations();
  for (const file of files) {
    const results = await operations.runModel(fs.readFileSync(file, 'utf8'));
    const probabilities = Object.fromEntries(results.map((r) => [r.languageId, r.confidence]));
    console.log(JSON.stringify({ file, probabilities }));
  }
})();
