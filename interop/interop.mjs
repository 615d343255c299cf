// Asks the providers' libraries in JavaScript (providers.mjs). It reads a list of tasks as JSON
// from standard input, and writes what each library that can do a task answers, by its name.
//
//   {"verify": {"provider": "…", "url": "…", "header": {…}, "body": "…", "secret": "…"}} → {"stripe": true | false}
//   {"sign": the same, with "id" and "time" (Unix seconds)}                             → {"stripe": {"header": {…}, "body": "…"}}
//
// Names of headers are in lower case. A library that throws does not accept the webhook.
import { text } from "node:stream/consumers";
import { libraries } from "./providers.mjs";

async function accepts(verify, webhook) {
  try {
    return await verify(webhook);
  } catch {
    return false;
  }
}

async function answer({ verify, sign }) {
  const answers = {};
  for (const [name, library] of Object.entries(libraries[(verify ?? sign).provider] ?? {})) {
    if (verify && library.verify) {
      answers[name] = await accepts(library.verify, verify);
    } else if (sign && library.sign) {
      const made = await library.sign(sign);
      answers[name] = made && { body: sign.body, ...made };
    }
  }
  return answers; // JSON leaves out what is undefined: a library that does not know this form
}

// Answers go to standard output, and what libraries print does not.
console.log = console.info = console.debug = console.error;
const answers = [];
for (const task of JSON.parse(await text(process.stdin))) {
  answers.push(await answer(task));
}
process.stdout.write(JSON.stringify(answers), () => process.exit());
