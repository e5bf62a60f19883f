//! A network between two processes: carries bytes, and does to them what networks do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};

/// What happens to what is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// It comes, so much later.
    Fair(Duration),
    /// It stays where it is; new connections are accepted, and nothing comes through them.
    Held,
    /// Connections are closed, new ones too.
    Cut,
}

/// One end of it; the other is dialled for each connection.
pub struct Link {
    address: SocketAddr,
    far: Arc<Mutex<String>>,
    weather: watch::Sender<Weather>,
    /// How often all connections were closed.
    cuts: watch::Sender<u64>,
}

impl Link {
    /// To a server at `far` (host:port).
    pub async fn to(far: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Self {
            address: listener.local_addr().unwrap(),
            far: Arc::new(Mutex::new(far.to_owned())),
            weather: watch::Sender::new(Weather::Fair(Duration::ZERO)),
            cuts: watch::Sender::new(0),
        };
        let (far, weather, cuts) = (link.far.clone(), link.weather.clone(), link.cuts.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (far, weather, mut cut) = (far.lock().unwrap().clone(), weather.subscribe(), cuts.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = carry(near, &far, weather) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        link
    }

    /// host:port, for who is to go through it.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
        if weather == Weather::Cut {
            self.cuts.send_modify(|cuts| *cuts += 1);
        }
    }

    pub fn mend(&self) {
        self.set(Weather::Fair(Duration::ZERO));
    }

    /// Connections from now on go to another server; those that are there are closed.
    pub fn lead_to(&self, far: &str) {
        *self.far.lock().unwrap() = far.to_owned();
        self.set(Weather::Cut);
        self.mend();
    }
}

async fn carry(near: TcpStream, far: &str, mut weather: watch::Receiver<Weather>) -> Option<()> {
    if *weather.borrow() == Weather::Cut {
        return None;
    }
    weather.wait_for(|weather| *weather != Weather::Held).await.ok()?;
    let far = TcpStream::connect(far).await.ok()?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        ended = way(near_in, far_out, weather.clone()) => ended,
        ended = way(far_in, near_out, weather) => ended,
    }
}

async fn way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) -> Option<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
        let now = *weather.wait_for(|weather| *weather != Weather::Held).await.ok()?;
        if let Weather::Fair(delay) = now {
            sleep(delay).await;
        }
        to.write_all(&bytes[..read]).await.ok()?;
    }
}
