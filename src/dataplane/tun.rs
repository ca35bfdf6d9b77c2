//! A queue of the multi-queue TUN device.

use super::offload::Offloads;

/// How to make the TUN device.
#[derive(Debug, Clone)]
pub struct TunConfig {
    /// Name or template; `flannel%d` lets the kernel take the first free number.
    pub name: String,
    /// Queues, one for each worker.
    pub num_queues: usize,
    /// Offloads to ask the kernel for.
    pub offloads: Offloads,
}

/// Why the TUN device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel refused the device.
    #[error("create TUN device {name}")]
    Create {
        /// The name asked for.
        name: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// The TUN device: its name and its queues. It lives as long as a queue is open.
#[derive(Debug)]
pub struct TunDevice {
    /// The name the kernel gave, such as `flannel0`.
    pub name: String,
}

impl TunConfig {
    /// Creates the device, down and without address.
    ///
    /// # Errors
    /// [`TunError`] when the kernel refuses the device or a queue.
    pub fn open(&self) -> Result<TunDevice, TunError> {
        Err(TunError::Create {
            name: self.name.clone(),
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }
}
