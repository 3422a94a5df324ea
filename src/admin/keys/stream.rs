//! Lists of any length, written in pieces.
//!
//! A list is written on the threads that answer Checks.  So it yields after every few keys, and a list of all keys is
//! read page by page, the next one once the client has taken the one before: no list takes more memory than a page.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;

use super::listed::KeyContext;
use crate::admin::error::ApiError;
use crate::admin::{Admin, with_store_timeout};
use crate::deny_reason::DenyReason;
use crate::keys::Key;
use crate::keys::store::{KeyFilter, ListPosition};

/// How many keys are written before other work on the thread gets its turn: a tenth of a millisecond.
const PIECE: usize = 25;

/// Keys that are being written as JSON, one after the other.
pub(in crate::admin) struct KeyWriter {
    text: Vec<u8>,
    written: usize,
}

impl KeyWriter {
    pub fn new() -> Self {
        Self { text: Vec::new(), written: 0 }
    }

    /// Adds a key, and yields after every [`PIECE`] of them.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub async fn write(&mut self, value: &impl Serialize) -> Result<(), ApiError> {
        serde_json::to_writer(&mut self.text, value).map_err(|_| ApiError::Internal)?;
        self.written += 1;
        if self.written.is_multiple_of(PIECE) {
            yield_now().await;
        }
        Ok(())
    }

    /// Adds what is between keys, or after them.
    pub fn punctuate(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
    }

    pub fn into_text(self) -> Vec<u8> {
        self.text
    }
}

/// These keys as a JSON array.
///
/// # Errors
/// They cannot be written as JSON.
pub(super) async fn write_array(keys: Vec<Key>, context: &KeyContext) -> Result<Vec<u8>, ApiError> {
    let mut writer = KeyWriter::new();
    let mut before: &[u8] = b"[";
    for key in keys {
        writer.punctuate(std::mem::replace(&mut before, b","));
        writer.write(&context.listed(key)).await?;
    }
    writer.punctuate(if before == b"[" { b"[]" } else { b"]" });
    Ok(writer.into_text())
}

/// A list that is read and written page by page.
pub(in crate::admin) trait Pages: Sized + Send + 'static {
    /// The media type of the list.
    const MEDIA_TYPE: &'static str;

    /// Whether no page is left.
    fn is_done(&self) -> bool;

    /// The text of the next page, and what is left; `None` after the last one.
    fn next_page(self) -> impl Future<Output = Result<Option<(Vec<u8>, Self)>, ApiError>> + Send;
}

/// The response with all pages.  Its status is sent once the first one was read; one that breaks off ends without its last
/// chunk.
///
/// # Errors
/// The first page cannot be read.
pub(in crate::admin) async fn respond<P: Pages>(pages: P) -> Result<Response, ApiError> {
    let Some((first, rest)) = pages.next_page().await? else {
        return Err(ApiError::Internal);
    };
    if rest.is_done() {
        return Ok(([(CONTENT_TYPE, P::MEDIA_TYPE)], first).into_response());
    }
    let rest = stream::try_unfold(rest, P::next_page);
    let body = Body::from_stream(stream::iter([Ok(first)]).chain(rest));
    Ok(([(CONTENT_TYPE, P::MEDIA_TYPE)], body).into_response())
}

impl Admin {
    /// A permit to write one of the lists of all keys.
    ///
    /// # Errors
    /// 503: too many are being written.
    pub(in crate::admin) async fn list_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.list_permits).acquire_owned();
        let permit = with_store_timeout(permit).await.map_err(|_| DenyReason::Overloaded)?;
        permit.map_err(|_| ApiError::Internal)
    }
}

/// The list of all keys, a JSON array.
pub(super) struct KeyList {
    admin: Arc<Admin>,
    filter: KeyFilter,
    /// Where the next page begins; `None` after the last one.
    next: Option<ListPosition>,
    /// No page was written yet.
    is_first: bool,
    _permit: OwnedSemaphorePermit,
}

impl KeyList {
    pub fn new(admin: Arc<Admin>, filter: KeyFilter, permit: OwnedSemaphorePermit) -> Self {
        Self { admin, filter, next: Some(ListPosition::START), is_first: true, _permit: permit }
    }
}

impl Pages for KeyList {
    const MEDIA_TYPE: &'static str = "application/json";

    fn is_done(&self) -> bool {
        self.next.is_none()
    }

    async fn next_page(mut self) -> Result<Option<(Vec<u8>, Self)>, ApiError> {
        let Some(position) = &self.next else {
            return Ok(None);
        };
        let page = with_store_timeout(self.admin.keys.list_after(&self.filter, position)).await??;
        let context = self.admin.key_context(&page.keys).await?;
        let mut writer = KeyWriter::new();
        for key in page.keys {
            writer.punctuate(if std::mem::take(&mut self.is_first) { b"[" } else { b"," });
            writer.write(&context.listed(key)).await?;
        }
        self.next = page.next;
        if self.next.is_none() {
            writer.punctuate(if self.is_first { b"[]" } else { b"]" });
        }
        Ok(Some((writer.into_text(), self)))
    }
}
