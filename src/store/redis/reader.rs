//! Where readers begin, where a stream is, and what is known of it.

use redis::Value;

use super::{
    RedisStore,
    append::{CHANGES_KEPT, epoch_of, id_of},
    device::DeviceField,
    keys::{address_bytes, bytes_of, number_of},
    millis, scripts, store_error,
};
use crate::{
    config::StreamStart,
    push::{Address, Epoch, PushId, Resume, StreamPosition},
    store::{AttachError, Attached, DeviceInfo, DeviceKey, Reader, StoreError, StreamInfo},
};

impl RedisStore {
    /// See [`crate::store::Store::attach`].
    pub(in crate::store) fn attach(
        &self,
        address: &Address,
        reader: Reader<'_>,
    ) -> impl Future<Output = Result<Attached, AttachError>> + Send + use<> {
        let config = &self.shared.config;
        let keys = self.shared.keys.stream(address);
        let (device, resume) = match reader {
            Reader::Device(device, resume) => (Some(device), resume),
            Reader::Room(resume) => (None, resume),
        };
        let start = match device {
            Some(DeviceKey::Declared(_)) => config.new_device,
            Some(DeviceKey::App(_)) | None => config.new_app,
        };
        let call = scripts::ATTACH
            .with_keys(&[&keys.meta, &keys.entries, &keys.devices])
            .arg(device.map(|device| DeviceField::of(device).0).unwrap_or_default())
            .arg(resume.map(|resume| resume.epoch.to_string()).unwrap_or_default())
            .arg(resume.map_or(0, |Resume { seq, .. }| seq))
            .arg(id_argument(resume.and_then(|resume| resume.id).unwrap_or(PushId::NIL)))
            .arg(config.max_devices)
            .arg(millis(config.device_idle))
            .arg(if start == StreamStart::Oldest { "oldest" } else { "head" });
        let client = self.shared.client.clone();
        let max_devices = config.max_devices;
        async move {
            let answer = client.run_script::<Vec<Value>>(&call).await;
            let answer = answer.map_err(|error| AttachError::Unavailable(error.to_string()))?;
            match (answer.first().map_or(0, number_of), answer.as_slice()) {
                (1, [_, epoch, seq, id, from, waiting, reset]) => Ok(Attached::At {
                    head: StreamPosition { epoch: epoch_of(epoch), seq: number_of(seq), id: id_of(id) },
                    from: number_of(from),
                    waiting: number_of(waiting),
                    reset: number_of(reset) == 1,
                }),
                (2, _) => Err(AttachError::TooManyDevices(max_devices)),
                _ => Ok(Attached::NoStream),
            }
        }
    }

    /// See [`crate::store::Store::head`].
    pub(in crate::store) async fn head(
        &self,
        address: &Address,
        known: Option<StreamPosition>,
    ) -> Result<Option<StreamPosition>, StoreError> {
        let keys = self.shared.keys.stream(address);
        let call = scripts::HEAD
            .with_keys(&[&keys.meta, &keys.entries, &keys.devices, &self.shared.keys.changes(keys.partition)])
            .arg(known.map(|known| known.epoch.to_string()).unwrap_or_default())
            .arg(known.map_or(0, |known| known.seq))
            .arg(id_argument(known.map_or(PushId::NIL, |known| known.id)))
            .arg(Epoch::random().to_string())
            .arg(address_bytes(address))
            .arg(CHANGES_KEPT);
        let answer: Option<Vec<Value>> =
            self.shared.client.run_script(&call).await.map_err(|error| store_error(&error))?;
        let Some([epoch, seq, id, is_cut]) = answer.as_deref() else { return Ok(None) };
        if number_of(is_cut) == 1 {
            tracing::warn!(
                kind = ?address.kind(),
                "Redis lost stored pushes of a stream (a fail-over, or a restart without appendfsync always): the stream has a \
                 new epoch, and its readers are told"
            );
        }
        Ok(Some(StreamPosition { epoch: epoch_of(epoch), seq: number_of(seq), id: id_of(id) }))
    }

    /// See [`crate::store::Store::describe`].
    pub(in crate::store) async fn describe(&self, address: &Address) -> Result<Option<StreamInfo>, StoreError> {
        let keys = self.shared.keys.stream(address);
        let call = scripts::DESCRIBE
            .with_keys(&[&keys.meta, &keys.entries, &keys.devices, &keys.gone])
            .arg(millis(self.shared.config.idempotency_ttl));
        let answer: Option<Vec<Value>> =
            self.shared.client.run_script(&call).await.map_err(|error| store_error(&error))?;
        let Some([epoch, seq, id, first, entries, bytes, devices @ ..]) = answer.as_deref() else { return Ok(None) };
        let device = |fields: &[Value]| {
            let (declared, name) = DeviceField::read(bytes_of(&fields[0]))?;
            let idle = std::time::Duration::from_secs(number_of(&fields[2]));
            Some(DeviceInfo { name: name.into(), declared, seq: number_of(&fields[1]), idle })
        };
        Ok(Some(StreamInfo {
            head: StreamPosition { epoch: epoch_of(epoch), seq: number_of(seq), id: id_of(id) },
            first: number_of(first),
            entries: number_of(entries),
            bytes: number_of(bytes),
            devices: devices.chunks_exact(3).filter_map(device).collect(),
        }))
    }

    /// See [`crate::store::Store::delete_entry`].
    pub(in crate::store) async fn delete_entry(&self, address: &Address, seq: u64) -> Result<bool, StoreError> {
        let keys = self.shared.keys.stream(address);
        let call = scripts::DELETE_ENTRY
            .with_keys(&[&keys.meta, &keys.entries, &keys.gone])
            .arg(seq)
            .arg(millis(self.shared.config.idempotency_ttl));
        let deleted: u64 = self.shared.client.run_script(&call).await.map_err(|error| store_error(&error))?;
        Ok(deleted > 0)
    }

    /// See [`crate::store::Store::delete_stream`].
    pub(in crate::store) async fn delete_stream(&self, address: &Address) -> Result<bool, StoreError> {
        let keys = self.shared.keys.stream(address);
        let mut command = redis::cmd("DEL");
        command.arg(&keys.meta).arg(&keys.entries).arg(&keys.devices);
        let deleted: u64 = self.shared.client.run(&command).await.map_err(|error| store_error(&error))?;
        Ok(deleted > 0)
    }
}

/// As the scripts take it: nothing for that of no push.
fn id_argument(id: PushId) -> Vec<u8> {
    if id == PushId::NIL { Vec::new() } else { id.to_bytes().to_vec() }
}
