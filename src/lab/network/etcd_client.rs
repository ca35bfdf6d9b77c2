//! [`EtcdClient`]: etcd for blocking code, from within a namespace.

use std::io;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, PutOptions, Txn, TxnOp,
};
use tokio::runtime::{Builder, Runtime};

use crate::lab::LabError;
use crate::lab::host::netns::Netns;

/// Asks one etcd; connects again for each call, so that an etcd that was restarted is no matter.
#[derive(Debug)]
pub(crate) struct EtcdClient {
    endpoint: String,
    /// Where its connections are made; `None` is the caller's namespace.
    netns: Option<Netns>,
    runtime: Runtime,
}

/// Long enough for a transaction of thousands of operations on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

impl EtcdClient {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`LabError::Io`] when the kernel has no more descriptors.
    pub(crate) fn new(endpoint: &str, netns: Option<Netns>) -> Result<Self, LabError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LabError::io("prepare for etcd"))?;
        Ok(Self { endpoint: endpoint.to_owned(), netns, runtime })
    }

    /// The value of a key, if it is there.
    pub(crate) fn get(&self, key: &str) -> Result<Option<String>, LabError> {
        let found = self.call(DEADLINE, async |etcd| etcd.get(key, None).await)?;
        Ok(found.kvs().first().map(|entry| text(entry.value())))
    }

    /// Whether it answers within a second.
    pub(crate) fn is_healthy(&self) -> bool {
        self.call(Duration::from_secs(1), async |etcd| etcd.get("health", None).await).is_ok()
    }

    /// Keys that begin with `prefix`, without it, and their values.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, LabError> {
        let all = Some(GetOptions::new().with_prefix());
        let found = self.call(DEADLINE, async |etcd| etcd.get(prefix, all).await)?;
        let pairs = found.kvs().iter().map(|entry| (text(entry.key()), text(entry.value())));
        Ok(pairs.map(|(key, value)| (key.trim_start_matches(prefix).to_owned(), value)).collect())
    }

    /// Writes a key, bound to a lease of etcd if one is given.
    pub(crate) fn put(&self, key: &str, value: &str, lease: Option<i64>) -> Result<(), LabError> {
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        self.call(DEADLINE, async |etcd| etcd.put(key, value, options).await).map(drop)
    }

    /// Writes a key that is not there; whether it was not.
    pub(crate) fn create(&self, key: &str, value: &str, lease: i64) -> Result<bool, LabError> {
        let is_absent = Compare::version(key, CompareOp::Equal, 0);
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let create = Txn::new().when([is_absent]).and_then([put]);
        Ok(self.call(DEADLINE, async |etcd| etcd.txn(create).await)?.succeeded())
    }

    /// Does many things at once.
    pub(crate) fn commit(&self, operations: Vec<TxnOp>) -> Result<(), LabError> {
        let all = Txn::new().and_then(operations);
        self.call(DEADLINE, async |etcd| etcd.txn(all).await).map(drop)
    }

    /// Deletes a key; whether it was there.
    pub(crate) fn delete(&self, key: &str) -> Result<bool, LabError> {
        Ok(self.call(DEADLINE, async |etcd| etcd.delete(key, None).await)?.deleted() > 0)
    }

    /// A new lease of etcd that ends in so many seconds.
    pub(crate) fn grant(&self, seconds: i64) -> Result<i64, LabError> {
        Ok(self.call(DEADLINE, async |etcd| etcd.lease_grant(seconds, None).await)?.id())
    }

    /// Seconds until a key ends: -1 if it never does, `None` if it is not there.
    pub(crate) fn ttl(&self, key: &str) -> Result<Option<i64>, LabError> {
        self.call(DEADLINE, async |etcd| {
            let found = etcd.get(key, None).await?;
            match found.kvs().first().map(|entry| entry.lease()) {
                None => Ok(None),
                Some(0) => Ok(Some(-1)),
                Some(lease) => Ok(Some(etcd.lease_time_to_live(lease, None).await?.ttl())),
            }
        })
    }

    /// Connects and asks.
    fn call<T: Send>(
        &self,
        deadline: Duration,
        ask: impl AsyncFnOnce(&mut Client) -> Result<T, Error> + Send,
    ) -> Result<T, LabError> {
        let options = ConnectOptions::new().with_connect_timeout(deadline).with_timeout(deadline);
        let work = || {
            self.runtime.block_on(async {
                let mut client = Client::connect([&self.endpoint], Some(options)).await?;
                ask(&mut client).await
            })
        };
        let work = || work().map_err(io::Error::other);
        let answer = match &self.netns {
            Some(netns) => netns.enter(work),
            None => work(),
        };
        answer.map_err(LabError::io(format!("ask etcd at {}", self.endpoint)))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::subnet::kv::registry::test_etcd::EtcdServer;

    #[test]
    fn keys_leases_and_transactions_of_a_real_etcd() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(EtcdServer::start());
        let etcd = EtcdClient::new(&server.url, None).unwrap();
        assert!(etcd.is_healthy());
        assert_eq!(etcd.get("/a/1").unwrap(), None);
        assert_eq!(etcd.ttl("/a/1").unwrap(), None);

        etcd.put("/a/1", "one", None).unwrap();
        assert_eq!(etcd.ttl("/a/1").unwrap(), Some(-1));
        let lease = etcd.grant(1000).unwrap();
        assert!(etcd.create("/a/2", "two", lease).unwrap());
        assert!(!etcd.create("/a/2", "again", lease).unwrap());
        assert!(etcd.ttl("/a/2").unwrap().is_some_and(|ttl| (900..=1000).contains(&ttl)));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(etcd.list("/a/").unwrap(), [pair("1", "one"), pair("2", "two")]);

        let all = vec![TxnOp::delete("/a/1", None), TxnOp::put("/a/3", "three", None)];
        etcd.commit(all).unwrap();
        assert_eq!(etcd.list("/a/").unwrap(), [pair("2", "two"), pair("3", "three")]);
        assert!(etcd.delete("/a/2").unwrap());
        assert!(!etcd.delete("/a/2").unwrap());
        drop(server);
        assert!(!etcd.is_healthy());
    }
}
