//! The table of layers in `src/lib.rs` holds for the source.
//!
//! The rule and its documentation are one text: the table is read from the crate's docs.  What a module imports is
//! read from its source: `use` declarations, paths that begin with `crate`, `self` or `super`, and such paths in the
//! arguments of macros and attributes.  What is compiled for tests or fuzzing alone is left out.  A name that a
//! module imports for its children (`use index::Index;` in `keys`, then `use super::Index;` in `keys::service`)
//! counts as an import of the module that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Imports that break the rule, with the reason why they are still there.
///
/// The list only gets shorter: an entry that nothing needs any more fails a test.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("config::listeners", "config::admin", "two listeners must not share an address, whatever they serve")];

const LIB: &str = include_str!("../../src/lib.rs");

/// How `src/main.rs` calls the library.
const LIBRARY: &str = "envoy_auth_tokens";

#[test]
fn every_module_stands_once_in_the_table_of_layers() {
    let mut listed: Vec<_> = layers().into_iter().flatten().collect();
    listed.sort_unstable();
    let modules = Source::of_this_crate().children(&[]);
    assert_eq!(listed, modules.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_module_imports_from_its_own_layer_and_those_below_and_never_in_a_circle() {
    let broken = broken(&Source::of_this_crate().edges(), &exceptions());
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_exception_is_needed() {
    let edges = Source::of_this_crate().edges();
    let exceptions = exceptions();
    for (index, exception) in exceptions.iter().enumerate() {
        let others = [&exceptions[..index], &exceptions[index + 1..]].concat();
        assert!(!broken(&edges, &others).is_empty(), "nothing needs the exception {exception}: take it out");
    }
}

#[test]
fn imports_are_found_in_every_form_and_those_of_tests_are_not() {
    let source = Source::parse(&[
        ("a", "use crate::{b::Thing, c::{self, d as e}};\nuse super::f::*;"),
        (
            "b",
            "fn f() { println!(\"{}\", crate::g::inner::LIMIT); let x: crate::h::T = y::<super::i::T>(); }",
        ),
        ("c", "#[route(body = crate::j::Body)] fn f() {}\nuse std::fmt;\nuse serde::Serialize;"),
        ("c::d", "use super::Outer;\nuse super::sibling::S;\nmod inner { use super::super::third::T; }"),
        ("c::sibling", "#[cfg(test)] mod tests { use crate::a::X; }\n#[cfg(test)] use crate::a::Y;"),
        (
            "c::third",
            "#[cfg(any(test, fuzzing))] fn f() { crate::a::y(); }\n#[cfg(not(test))] use crate::k::Z;",
        ),
        ("main", "use envoy_auth_tokens::a;"),
        ("f", ""),
        ("g", "pub mod inner {}"),
        ("h", "pub(in crate::a) struct T;"),
        ("i", ""),
        ("j", "use reexporting::Defined;"),
        ("j::reexporting", "pub use super::defining::Defined;"),
        ("j::defining", ""),
        ("j::user", "use super::Defined;"),
        ("k", "/// Like [`crate::a`].\nfn f() {}\n#[cfg(test)] mod outside;"),
        ("k::outside", "use crate::a::X;"),
    ]);
    let edges = source.edges();
    let found: Vec<_> = edges.keys().map(ToString::to_string).collect();
    let expected = [
        "a → b",
        "a → c",
        "a → f",
        "b → g",
        "b → h",
        "b → i",
        "c → j",
        "c → k",
        "main → a",
        "c::d → c::sibling",
        "c::d → c::third",
        "j::reexporting → j::defining",
        "j::user → j::defining",
    ];
    let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(sorted(&found), sorted(&expected.map(String::from)));
}

#[test]
fn an_import_from_above_and_one_in_a_circle_break_the_rule() {
    // Of the real layers: `app` stands above `token`, `policy` and `credential` stand side by side.
    let edges = |files: &[(&str, &str)]| Source::parse(files).edges();
    let upward = edges(&[("app", ""), ("token", "use crate::app::App;")]);
    assert_eq!(broken(&upward, &[]).len(), 1);
    assert!(broken(&upward, &upward.keys().cloned().collect::<Vec<_>>()).is_empty());
    let downward = edges(&[("app", "use crate::token::Token;"), ("token", "")]);
    assert!(broken(&downward, &[]).is_empty());
    let circle = edges(&[("policy", "use crate::credential::A;"), ("credential", "use crate::policy::B;")]);
    assert_eq!(broken(&circle, &[]).len(), 2);
    let files = ["use super::b::B;", "use super::c::C;", "use super::a::A;"];
    let long = edges(&[("keys", ""), ("keys::a", files[0]), ("keys::b", files[1]), ("keys::c", files[2])]);
    assert_eq!(broken(&long, &[]).len(), 3);
}

/// The layers, the topmost first, each with the names of its modules.
fn layers() -> Vec<Vec<String>> {
    let section = LIB.split("//! ## Layers").nth(1).expect("a section \"Layers\" in src/lib.rs");
    let section = section.split("//! ## ").next().expect("a text before the next section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("//! | ")).skip(2);
    let layers: Vec<Vec<_>> = rows
        .map(|row| {
            let modules = row.split('|').nth(1).expect("a column of modules");
            modules.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        })
        .collect();
    assert!(layers.len() > 5 && layers.iter().all(|layer| !layer.is_empty()), "{layers:?}");
    layers
}

fn exceptions() -> Vec<Edge> {
    EXCEPTIONS
        .iter()
        .map(|(from, to, _)| Edge::new(&parse_path(from), &parse_path(to)).expect("two modules"))
        .collect()
}

/// What breaks the rule, a line each.
fn broken(edges: &Edges, exceptions: &[Edge]) -> Vec<String> {
    let layers = layers();
    let layer_of = |module: &str| layers.iter().position(|layer| layer.iter().any(|name| name == module));
    let edges: Edges = edges
        .iter()
        .filter(|(edge, _)| !exceptions.contains(edge))
        .map(|(edge, at)| (edge.clone(), at.clone()))
        .collect();
    let mut broken = Vec::new();
    for (edge, paths) in &edges {
        let paths = paths.iter().cloned().collect::<Vec<_>>().join(", ");
        if edge.parent.is_empty() && layer_of(&edge.to) < layer_of(&edge.from) {
            broken.push(format!("{edge} is an import from a layer above: {paths}"));
        } else if is_reachable(&edges, &edge.parent, &edge.to, &edge.from) {
            broken.push(format!("{edge} is part of a circle: {paths}"));
        }
    }
    broken
}

/// Whether a module imports another one, directly or by way of modules beside it.
fn is_reachable(edges: &Edges, parent: &[String], from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for edge in edges.keys().filter(|edge| edge.parent == parent && edge.from == module) {
            if edge.to == to {
                return true;
            }
            if seen.insert(&edge.to) {
                open.push(&edge.to);
            }
        }
    }
    false
}

/// That one module imports from another one of the same parent; and by which paths, with the files.
type Edges = BTreeMap<Edge, BTreeSet<String>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    parent: Vec<String>,
    from: String,
    to: String,
}

impl Edge {
    /// `None` when one module holds the other: parents and children may import each other.
    fn new(from: &[String], to: &[String]) -> Option<Self> {
        let shared = from.iter().zip(to).take_while(|(from, to)| from == to).count();
        let (own, other) = (from.get(shared)?, to.get(shared)?);
        Some(Self { parent: from[..shared].to_vec(), from: own.clone(), to: other.clone() })
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            |module: &String| [self.parent.as_slice(), std::slice::from_ref(module)].concat().join("::");
        write!(f, "{} → {}", name(&self.from), name(&self.to))
    }
}

/// The modules of a crate, without those of tests, and what they import.
#[derive(Default)]
struct Source {
    /// All modules by their paths, each with the names that its `use` declarations bring into it.
    modules: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
    /// Each module with a path that it names, from the root of the crate.
    imports: BTreeSet<(Vec<String>, Vec<String>)>,
    /// Modules in files of their own that are compiled for tests alone.
    test_modules: BTreeSet<Vec<String>>,
}

impl Source {
    fn of_this_crate() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        find_files(&root, &mut Vec::new(), &mut files);
        assert!(files.len() > 50, "{}", files.len());
        let files: Vec<_> = files.iter().map(|(module, text)| (module.as_str(), text.as_str())).collect();
        Self::parse(&files)
    }

    /// Modules with the text of their files; that of `lib.rs` has no name.
    fn parse(files: &[(&str, &str)]) -> Self {
        let mut source = Self::default();
        for (module, text) in files {
            let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{module}: {error}"));
            let mut reader = Reader { module: parse_path(module), source: &mut source };
            reader.source.modules.entry(reader.module.clone()).or_default();
            reader.visit_file(&file);
        }
        let Self { modules, imports, test_modules } = &mut source;
        let is_of_test = |module: &[String]| test_modules.iter().any(|test| module.starts_with(test));
        modules.retain(|module, _| !is_of_test(module));
        imports.retain(|(module, _)| !is_of_test(module));
        source
    }

    fn children(&self, parent: &[String]) -> BTreeSet<String> {
        let below = self.modules.keys().filter_map(|module| module.strip_prefix(parent));
        below.filter(|rest| rest.len() == 1).map(|rest| rest[0].clone()).collect()
    }

    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (from, path) in &self.imports {
            if let Some(edge) = self.defining_module(path).and_then(|to| Edge::new(from, &to)) {
                let path = format!("{} in {}", path.join("::"), from.join("::"));
                edges.entry(edge).or_default().insert(path);
            }
        }
        edges
    }

    /// The module that defines what a path leads to.
    fn defining_module(&self, path: &[String]) -> Option<Vec<String>> {
        let mut path = path.to_vec();
        // A name that is passed on more often than this goes in a circle.
        for _ in 0..10 {
            let length = (0..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
            let (module, rest) = path.split_at(length);
            let Some(target) = rest.first().and_then(|name| self.modules[module].get(name)) else {
                return Some(module.to_vec());
            };
            path = [target, &rest[1..]].concat();
        }
        None
    }
}

/// Finds the files of a folder and those below it, with the paths of their modules.
fn find_files(folder: &Path, module: &mut Vec<String>, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            module.push(name);
            find_files(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let own = if name == "lib" { Vec::new() } else { [module.as_slice(), &[name]].concat() };
            files.push((own.join("::"), fs::read_to_string(&path).unwrap()));
        }
    }
}

fn parse_path(text: &str) -> Vec<String> {
    text.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Goes through the syntax tree of one file.
struct Reader<'a> {
    /// Where it is.
    module: Vec<String>,
    source: &'a mut Source,
}

impl Reader<'_> {
    /// The path from the root of the crate; `None` where it leads into another crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            LIBRARY if self.module == ["main"] => Some(rest.to_vec()),
            "self" => Some([&self.module, rest].concat()),
            "super" => {
                let parent = self.module.len().checked_sub(supers).expect("a module above");
                Some([&self.module[..parent], &path[supers..]].concat())
            }
            _ => None,
        }
    }

    fn import(&mut self, path: &[String]) {
        if let Some(path) = self.absolute(path) {
            self.source.imports.insert((self.module.clone(), path));
        }
    }

    fn read_use(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let (path, name) = match tree {
            syn::UseTree::Path(path) => return self.read_use(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.read_use(tree, before));
            }
            syn::UseTree::Glob(_) => return self.import(before),
            syn::UseTree::Name(name) if name.ident == "self" => (before.to_vec(), before.last().cloned()),
            syn::UseTree::Name(name) => (with(&name.ident), Some(name.ident.to_string())),
            syn::UseTree::Rename(rename) => (with(&rename.ident), Some(rename.rename.to_string())),
        };
        self.import(&path);
        // Without a prefix it may be a child of this module, or another crate.
        let target = self.absolute(&path).unwrap_or_else(|| [self.module.as_slice(), &path].concat());
        let names = self.source.modules.get_mut(&self.module).expect("a module that was begun");
        if let Some(name) = name
            && target != [self.module.as_slice(), std::slice::from_ref(&name)].concat()
        {
            names.insert(name, target);
        }
    }

    /// Paths in text that the parser does not look into.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.import(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Group(group) => {
                    self.import(&std::mem::take(&mut path));
                    self.read_tokens(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.import(&std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.import(&path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Trait(item) => &item.attrs,
            syn::Item::Type(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            return visit::visit_item(self, item);
        }
        if let syn::Item::Mod(item) = item {
            self.source.test_modules.insert([self.module.as_slice(), &[item.ident.to_string()]].concat());
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        self.source.modules.entry(self.module.clone()).or_default();
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.read_use(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.import(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.read_tokens(item.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.read_tokens(list.tokens.clone());
        }
    }

    // Who may use a thing is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// Whether an item is compiled for tests, fuzzing or documentation alone.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    let mut conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions.any(|condition| {
        let syn::Meta::List(list) = &condition.meta else { return false };
        let condition = list.tokens.to_string();
        condition == "doc" || condition.contains("test") && !condition.contains("not")
    })
}
