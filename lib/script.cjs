#!/usr/bin/env node
// Watch Party {version}, a script for Node.js 24 or newer: node watch-party.cjs --help
// The program is in the comment at the end, because Node 12 and 14 cannot parse it. They would report a syntax error
// before the first line runs. They can parse these lines, which check the version and then run the comment.
"use strict";
if (Number(process.versions.node.split(".")[0]) < 24) {
  console.error("Watch Party needs Node.js 24 or newer, and this is " + process.versions.node + ".");
  process.exit(1);
}

// These two lines replace the flags of `npm start`. The first line of the file cannot pass flags: that takes `env -S`,
// which Alpine's env does not have. After its start V8 ignores a limit of the young generation, but not one of its growth.
require("v8").setFlagsFromString("--semi-space-growth-factor=1");
process.on("SIGUSR1", () => {}); // Without a listener, Node would open the inspector.

const [, lines, program] = /^([^]*?\n\/\*\n)([^]*)\*\/\n$/.exec(require("fs").readFileSync(__filename, "utf8"));
// The build has replaced the slash in "*/" by U+2215, so that it does not end the comment.
require("vm").compileFunction(program.replace(/\*\u2215/g, "*/"), ["exports", "require", "module"], {
  filename: __filename,
  lineOffset: lines.split("\n").length - 1,
})(exports, require, module);
