// Holds Kubernetes resources against the schemas that tests/tools/fetch.py fetches as mesh-schemas.
//
//     node tests/tools/crds.mjs target/tools/mesh-schemas DOCUMENTS.json
//
// DOCUMENTS.json is a list of {"name": "file.yaml#1", "document": {…}}.  Prints one line for each thing
// that is wrong, `name path: what`, and exits with 1 when there is any.
//
// Two halves of one schema, both made from the projects' published CustomResourceDefinitions: validators
// know values (enumerations, ranges, patterns) but let an unknown field pass; TypeScript's types know
// every field.  Neither has the rules that CRDs write in CEL.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

// The packages, by what an API group ends with; the core groups stand in the last one.
const PACKAGES = [
  ["istio.io", "@kubernetes-models/istio"],
  ["gateway.envoyproxy.io", "@kubernetes-models/envoy-gateway"],
  ["gateway.networking.k8s.io", "@kubernetes-models/gateway-api"],
  ["cert-manager.io", "@kubernetes-models/cert-manager"],
  ["external-secrets.io", "@kubernetes-models/external-secrets"],
  ["monitoring.coreos.com", "@kubernetes-models/prometheus-operator"],
  ["argoproj.io", "@kubernetes-models/argo-rollouts"],
  ["", "kubernetes-models"],
];

const [home, file] = process.argv.slice(2).map((path) => resolve(path));
const documents = JSON.parse(readFileSync(file, "utf8"));
const known = await Promise.all(documents.map(withModel));
const wrong = [...known.flatMap(wrongValues), ...unknownFields(known.filter(({ model }) => model))];
wrong.forEach((line) => console.log(line));
process.exitCode = wrong.length > 0 ? 1 : 0;

/** Finds the model of a document's kind, if its package has one. */
async function withModel({ name, document }) {
  const { apiVersion = "", kind = "" } = document;
  const group = apiVersion.includes("/") ? apiVersion.split("/")[0] : "";
  const [, owner] = PACKAGES.find(([end]) => group.endsWith(end));
  const module = `${owner}/${apiVersion}/${kind}`;
  const path = join(home, "node_modules", `${module}.js`);
  const model = await import(pathToFileURL(path)).then((found) => found[kind], () => undefined);
  return { name, document, kind, module, model };
}

/** What the validator of its kind says. */
function wrongValues({ name, document, model }) {
  if (!model) {
    return [`${name} kind: no schema has ${document.apiVersion} ${document.kind}`];
  }
  try {
    new model(document).validate();
    return [];
  } catch (error) {
    if (!error.errors) throw error;
    return error.errors.map(({ instancePath, message, params }) => {
      const values = params?.allowedValues ? ` (${params.allowedValues.join(", ")})` : "";
      return `${name} ${instancePath.slice(1).replaceAll("/", ".")}: ${message}${values}`;
    });
  }
}

/** Looks every field of every document up in the type of its kind, as TypeScript itself understands it. */
function unknownFields(all) {
  const ts = createRequire(join(home, "package.json"))("typescript");
  const path = join(home, "kinds.ts");
  const modules = [...new Map(all.map(({ module, kind }) => [module, kind]))];
  const text = modules.map(([module, kind]) => `export type { I${kind} } from "${module}";\n`).join("");
  const options = {
    strict: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ES2022,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
  };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = host;
  host.fileExists = (name) => name === path || fileExists(name);
  host.getSourceFile = (name, ...rest) =>
    name === path ? ts.createSourceFile(name, text, ...rest) : getSourceFile(name, ...rest);
  const program = ts.createProgram([path], options, host);
  const checker = program.getTypeChecker();
  const exports = program.getSourceFile(path).statements.map(({ exportClause }) => {
    const symbol = checker.getSymbolAtLocation(exportClause.elements[0].name);
    return checker.getDeclaredTypeOfSymbol(checker.getAliasedSymbol(symbol));
  });
  const types = new Map(modules.map(([module], index) => [module, exports[index]]));

  /** The types that a union or an intersection is made of. */
  const parts = (type) => (type.types ? type.types.flatMap(parts) : [type]);
  const anything = (type) => (type.flags & (ts.TypeFlags.Any | ts.TypeFlags.Unknown)) !== 0;
  /** `x-kubernetes-preserve-unknown-fields`: an object that names none of its fields. */
  const isFree = (type) => type.getProperties().length === 0 && !type.getStringIndexType();
  const member = (name) => (type) => {
    const property = checker.getPropertyOfType(type, name);
    return property ? [checker.getTypeOfSymbol(property)] : (type.getStringIndexType() ?? []);
  };
  const unknown = (value, all, at) => {
    const known = all.flatMap(parts);
    if (value === null || typeof value !== "object" || known.some(anything)) return [];
    if (Array.isArray(value)) {
      const arrays = known.filter((type) => checker.isArrayType(type));
      const elements = arrays.flatMap((type) => checker.getTypeArguments(type));
      return value.flatMap((item, index) => unknown(item, elements, [...at, index]));
    }
    const objects = known.filter((type) => type.flags & ts.TypeFlags.Object && !checker.isArrayType(type));
    if (objects.length > 0 && objects.every(isFree)) return [];
    return Object.entries(value).flatMap(([name, inner]) => {
      const found = objects.flatMap(member(name));
      const here = [...at, name];
      return found.length > 0 ? unknown(inner, found, here) : [`${here.join(".")}: no such field`];
    });
  };
  return all.flatMap(({ name, document, module }) =>
    unknown(document, [types.get(module)], []).map((line) => `${name} ${line}`),
  );
}
