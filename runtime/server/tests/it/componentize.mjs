// Makes a component of a JavaScript file: node componentize.mjs PACKAGES SOURCE WIT WORLD OUTPUT
import { pathToFileURL } from 'node:url';
import { writeFile } from 'node:fs/promises';

const [packages, sourcePath, witPath, worldName, output] = process.argv.slice(2);
const tool = `${packages}/node_modules/@bytecodealliance/componentize-js/src/componentize.js`;
const { componentize } = await import(pathToFileURL(tool));
const { component } = await componentize({ sourcePath, witPath, worldName });
await writeFile(output, component);
