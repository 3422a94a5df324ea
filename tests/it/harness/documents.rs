//! README.md and the pages of docs/, as their readers see them: text, headings, fenced blocks.

use super::tools;

/// One document.
pub struct Document {
    /// Its path in the repository, such as `docs/tls.md`.
    pub path: String,
    pub text: String,
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The last heading above it, without its marks.
    pub heading: String,
    /// What stands behind the fence: `sh`, `yaml`, `console`, or nothing.
    pub language: String,
    pub text: String,
}

/// The document at this path of the repository.
pub fn document(path: &str) -> Document {
    let text = std::fs::read_to_string(tools::root().join(path));
    Document { path: path.to_owned(), text: text.unwrap_or_else(|error| panic!("{path}: {error}")) }
}

/// README.md, and every page of docs/ but the table of contents.
pub fn all() -> Vec<Document> {
    let entries = std::fs::read_dir(tools::root().join("docs")).expect("docs/");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let mut pages: Vec<_> = names.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect();
    pages.sort_unstable();
    let pages = pages.iter().map(|name| document(&format!("docs/{name}")));
    std::iter::once(document("README.md")).chain(pages).collect()
}

impl Document {
    /// Every fenced block, in order.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut heading = String::new();
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(language)) => {
                    let language = language.to_owned();
                    open = Some(Block { heading: heading.clone(), language, text: String::new() });
                }
                (Some(block), Some("")) => {
                    block.text.truncate(block.text.trim_end_matches('\n').len());
                    blocks.extend(open.take());
                }
                (Some(block), _) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {
                    let text = line.trim_start_matches('#');
                    if text.len() < line.len() && text.starts_with(' ') {
                        heading = text.trim().to_owned();
                    }
                }
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.path);
        blocks
    }

    /// The blocks below this heading, up to the next heading of any level.
    pub fn blocks_below(&self, heading: &str) -> Vec<Block> {
        let below: Vec<_> = self.blocks().into_iter().filter(|block| block.heading == heading).collect();
        assert!(!below.is_empty(), "{}: no block below {heading:?}", self.path);
        below
    }
}

impl Block {
    /// Language and text, to be matched.
    pub fn parts(&self) -> (&str, &str) {
        (&self.language, &self.text)
    }
}
