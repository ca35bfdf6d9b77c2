//! Listings: page by page, each as long as a message allows.

use etcd_client::{Client, Error, GetOptions, GetResponse, KeyValue};

use super::{EtcdRegistry, MAX_MESSAGE_LEN, store_of};
use crate::control::subnet::kv::registry::{Read, RegistryError, Revision, Snapshot};
use crate::control::subnet::lease::LeaseError;

/// Most entries per page: at some 200 bytes each, well below [`MAX_MESSAGE_LEN`].
const PAGE_LEN: i64 = 5000;

/// By how much a page is shortened that did not fit into a message. etcd makes all of it before we
/// refuse it, so few tries are worth more than a good fit.
const SHORTEN: i64 = 8;

/// What etcd answered to a request for a page.
enum Page {
    Fits(GetResponse),
    TooLong,
}

impl EtcdRegistry {
    /// Every entry, page by page, all as of the first page's revision.
    pub(super) async fn list_all(&self) -> Result<Snapshot, RegistryError> {
        self.list_range(self.keys.subnets.clone(), self.keys.subnets_end(), PAGE_LEN).await
    }

    /// The entry of `key`, or none.
    pub(super) async fn list_one(&self, key: String) -> Result<Snapshot, RegistryError> {
        let end = format!("{key}\0"); // the first key after it
        self.list_range(key, end, 1).await
    }

    /// Prefixes of other networks: what is before `/config` in a key, if there are leases of the same
    /// prefix. Of what Kubernetes stores nothing is read, and of all else the first thousands of keys.
    pub(in crate::control::subnet::kv::registry) async fn prefixes(&self) -> Vec<String> {
        const KUBERNETES: &str = "/registry/";
        const AFTER_KUBERNETES: &str = "/registry0";
        let mut keys = Vec::new();
        for (from, end) in [("!", KUBERNETES), (AFTER_KUBERNETES, "\0")] {
            let options = GetOptions::new().with_range(end).with_keys_only().with_limit(PAGE_LEN);
            // A role may not be allowed to read them.
            let Ok(Page::Fits(page)) = self.page(from.as_bytes(), options).await else { continue };
            let texts = page.kvs().iter().filter_map(|kv| kv.key_str().ok().map(str::to_owned));
            keys.extend(texts);
        }
        let prefixes = keys.iter().filter_map(|key| key.strip_suffix("/config"));
        let has_leases = |prefix: &&str| {
            let leases = format!("{prefix}/subnets/");
            keys.iter().any(|key| key.starts_with(&leases))
        };
        prefixes.filter(has_leases).map(str::to_owned).collect()
    }

    async fn list_range(
        &self,
        from: String,
        end: String,
        mut page_len: i64,
    ) -> Result<Snapshot, RegistryError> {
        let mut from = from.into_bytes();
        let mut snapshot: Option<Snapshot> = None;
        loop {
            let revision = snapshot.as_ref().map_or(0, |all| all.revision.0); // 0 is the latest
            let options = GetOptions::new().with_range(end.clone()).with_revision(revision);
            let page = match self.page(&from, options.clone().with_limit(page_len)).await? {
                Page::Fits(page) => {
                    page_len = (page_len * 2).min(PAGE_LEN);
                    append(&mut snapshot, &page, |kv| self.keys.read(kv))?;
                    page
                }
                Page::TooLong if page_len > 1 => {
                    page_len = (page_len / SHORTEN).max(1);
                    continue;
                }
                Page::TooLong => {
                    let page = self.page(&from, options.with_limit(1).with_keys_only()).await?;
                    let Page::Fits(page) = page else { return Err(failed("a key is too long")) };
                    let giant = |kv: &KeyValue| Err(self.keys.malformed(kv, LeaseError::Giant));
                    append(&mut snapshot, &page, giant)?;
                    page
                }
            };
            match (page.kvs().last(), snapshot) {
                (Some(last), Some(all)) if page.more() => {
                    from = last.key().to_vec();
                    from.push(0); // the first key after it
                    snapshot = Some(all);
                }
                (_, Some(all)) => return Ok(all),
                (_, None) => return Err(failed("no page")),
            }
        }
    }

    async fn page(&self, from: &[u8], options: GetOptions) -> Result<Page, RegistryError> {
        let page = |client| {
            let get = get(client, from.to_vec(), options.clone());
            async move {
                match get.await {
                    Ok(page) => Ok(Page::Fits(page)),
                    Err(error) if is_too_long(&error) => Ok(Page::TooLong),
                    Err(error) => Err(error),
                }
            }
        };
        self.servers.call(OPERATION, page).await
    }
}

const OPERATION: &str = "list leases";

fn failed(reason: &str) -> RegistryError {
    RegistryError::Call { operation: OPERATION, reason: reason.to_owned() }
}

/// Adds what `read` makes of the entries of `page`.
fn append(
    snapshot: &mut Option<Snapshot>,
    page: &GetResponse,
    read: impl Fn(&KeyValue) -> Read,
) -> Result<(), RegistryError> {
    let store = store_of(page.header());
    let revision = Revision(page.header().map_or(0, |header| header.revision()));
    let all = snapshot.get_or_insert_with(|| Snapshot {
        store: store.clone(),
        revision,
        entries: Vec::new(),
    });
    if all.store != store {
        return Err(failed("another etcd cluster answered half-way"));
    }
    all.entries.extend(page.kvs().iter().map(read));
    Ok(())
}

/// Whether an answer was longer than we take, or than a proxy on its way does.
fn is_too_long(error: &Error) -> bool {
    const RESOURCE_EXHAUSTED: i32 = 8;
    const OUT_OF_RANGE: i32 = 11;
    let Error::GRpcStatus(status) = error else {
        return false;
    };
    match status.code() as i32 {
        // Of tonic, which we are made with. etcd says `out of range` of revisions, too.
        OUT_OF_RANGE => status.message().contains("message length too large"),
        // Of gRPC for Go.
        RESOURCE_EXHAUSTED => status.message().contains("message larger than max"),
        _ => false,
    }
}

pub(super) async fn get(
    client: Client,
    key: impl Into<Vec<u8>>,
    options: GetOptions,
) -> Result<GetResponse, Error> {
    let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE_LEN);
    kv.get(key, Some(options)).await
}
