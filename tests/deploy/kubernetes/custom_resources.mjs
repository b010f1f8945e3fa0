// Objects as JSON on stdin; faults as JSON on stdout, one list for each object. The argument is the folder with node_modules.
// The schemas let unknown keys pass, which the API server would drop; so keys are looked up in the types as well, which import each other.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const PACKAGES = { "monitoring.coreos.com/v1": "prometheus-operator", "keda.sh/v1alpha1": "keda" };
const FREE = new Set(["labels", "annotations", "matchLabels", "metadata"]);

function* keys(value) {
  if (Array.isArray(value)) for (const each of value) yield* keys(each);
  else if (value !== null && typeof value === "object")
    for (const [key, each] of Object.entries(value)) {
      yield key;
      if (!FREE.has(key)) yield* keys(each);
    }
}

function named(file, names = new Set(), read = new Set()) {
  if (read.has(file) || !existsSync(file)) return names;
  read.add(file);
  const types = readFileSync(file, "utf8");
  for (const [, name] of types.matchAll(/^\s*"(\w+)"\??:/gm)) names.add(name);
  for (const [, from] of types.matchAll(/^import .* from "(.*)";/gm)) {
    const target = from.startsWith(".") ? resolve(dirname(file), from) : join(process.argv[2], "node_modules", from);
    named(target.replace(/\.js$/, "") + ".d.ts", names, read);
  }
  return names;
}

async function faults(object) {
  const found = PACKAGES[object.apiVersion];
  if (!found) return [`no schema for ${object.apiVersion}`];
  const base = join(process.argv[2], "node_modules", "@kubernetes-models", found, object.apiVersion, object.kind);
  const model = new (await import(pathToFileURL(`${base}.js`)))[object.kind](object);
  const known = named(`${base}.d.ts`);
  const unknown = [...keys(object.spec)].filter((key) => !known.has(key)).map((key) => `unknown key ${key}`);
  try {
    model.validate();
  } catch (error) {
    return [error.message, ...unknown];
  }
  return unknown;
}

const objects = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(objects.map(faults))));
