//! Load on the bank contract that a Python client can't offer: long-lived streams of deposits.
//!
//! `load_client HOST:PORT STREAMS IN_FLIGHT COMMANDS [RATE]` creates accounts, then sends COMMANDS
//! deposits over STREAMS streams on a few connections, each with at most IN_FLIGHT unanswered; with
//! a RATE so many a second over all streams, late or not (an open loop). One line of JSON tells
//! what was answered, how fast, and how long an answer took from when its command was due, also as
//! `waits_us`: value, count, value, count, ... with three digits of each value.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

const CONNECTIONS: usize = 8;
const ACCOUNTS: u64 = 1_000;
const PREFIX_BYTES: usize = 5;
const METHOD: &str = "/gc.garcol.bank.proto.BalanceCommandService/sendCommand";

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, streams, in_flight, commands, rest @ ..] = arguments.as_slice() else {
        return Err("usage: load_client HOST:PORT STREAMS IN_FLIGHT COMMANDS [RATE]".into());
    };
    let (streams, in_flight, commands) = (streams.parse()?, in_flight.parse()?, commands.parse()?);
    let rate = rest.first().map(|rate| rate.parse()).transpose()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(target, streams, in_flight, commands, rate))
}

async fn run(
    target: &str,
    streams: usize,
    in_flight: usize,
    commands: usize,
    rate: Option<f64>,
) -> Result<(), Failure> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS.min(streams) {
        connections.push(connect(target).await?);
    }
    let mut maker = Stream::open(&connections[0], target).await?;
    let mut accounts = Vec::new();
    let create = framed(|message| message.put_slice(&[0x0a, 0x00]));
    maker
        .exchange(
            ACCOUNTS as usize,
            256,
            |_| create.clone(),
            |reply| {
                let text = String::from_utf8_lossy(reply);
                let number: String = text
                    .rsplit("::")
                    .next()
                    .unwrap_or("")
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect();
                accounts.extend(number.parse::<u64>());
            },
        )
        .await?;
    if accounts.len() as u64 != ACCOUNTS {
        return Err("not every account was created".into());
    }
    let mut opened = Vec::new();
    for number in 0..streams {
        let stream = Stream::open(&connections[number % connections.len()], target).await?;
        let deposits: Vec<Bytes> = accounts
            .iter()
            .cycle()
            .skip(number * 7)
            .take(accounts.len())
            .map(|account| deposit(*account))
            .collect();
        opened.push((stream, deposits));
    }
    let begun = Instant::now();
    let (mut tasks, mut dues) = (Vec::new(), Vec::new());
    for (number, (stream, deposits)) in opened.into_iter().enumerate() {
        let own = commands / streams + usize::from(number < commands % streams);
        let due = rate.map(|_| {
            let (due, receiver) = mpsc::unbounded_channel();
            dues.push(due);
            receiver
        });
        tasks.push(tokio::spawn(load(stream, own, in_flight, deposits, due)));
    }
    if let Some(rate) = rate {
        thread::spawn(move || offer(commands, rate, &dues));
    }
    let (mut done, mut refused, mut waits) = (0, 0, Vec::new());
    for task in tasks {
        let loaded = task.await??;
        done += loaded.done;
        refused += loaded.refused;
        waits.extend(loaded.waits);
    }
    let seconds = begun.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at = |share: f64| {
        let place = ((waits.len() as f64 * share) as usize).min(waits.len().saturating_sub(1));
        waits
            .get(place)
            .map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
    };
    let mut counts: BTreeMap<u128, usize> = BTreeMap::new();
    for wait in &waits {
        *counts.entry(three_digits(wait.as_micros())).or_default() += 1;
    }
    let told: Vec<String> = counts
        .iter()
        .map(|(value, count)| format!("{value},{count}"))
        .collect();
    println!(
        "{{\"done\": {done}, \"refused\": {refused}, \"seconds\": {seconds:.3}, \
         \"commands_per_second\": {:.0}, \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \"max_ms\": {:.3}, \
         \"waits_us\": [{}]}}",
        (done + refused) as f64 / seconds,
        at(0.5),
        at(0.99),
        at(1.0),
        told.join(",")
    );
    Ok(())
}

/// Rounded up, so that no latency looks better than it was.
fn three_digits(value: u128) -> u128 {
    let mut step = 1;
    while value / step >= 1_000 {
        step *= 10;
    }
    value.div_ceil(step) * step
}

struct Loaded {
    done: usize,
    refused: usize,
    waits: Vec<Duration>,
}

async fn load(
    mut stream: Stream,
    commands: usize,
    in_flight: usize,
    deposits: Vec<Bytes>,
    due: Option<UnboundedReceiver<Instant>>,
) -> Result<Loaded, Failure> {
    let (mut done, mut refused) = (0, 0);
    let count = |reply: &[u8]| {
        // a result's code comes first, and only where it isn't zero
        if reply.first() == Some(&0x08) {
            refused += 1;
        } else {
            done += 1;
        }
    };
    let command = |index: usize| deposits[index % deposits.len()].clone();
    let waits = match due {
        None => stream.exchange(commands, in_flight, command, count).await?,
        Some(due) => stream.follow(commands, due, command, count).await?,
    };
    Ok(Loaded {
        done,
        refused,
        waits,
    })
}

/// Tell each stream in turn when its next command is due: `rate` a second over all of them.
///
/// On a thread of its own, as the runtime's timers have the resolution of a millisecond.
fn offer(commands: usize, rate: f64, streams: &[UnboundedSender<Instant>]) {
    let begun = Instant::now();
    for (number, stream) in (0..commands).zip(streams.iter().cycle()) {
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if stream.send(due).is_err() {
            return; // its stream has failed, and tells
        }
    }
}

async fn connect(target: &str) -> Result<SendRequest<Bytes>, Failure> {
    let socket = TcpStream::connect(target).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(socket)
        .await?;
    tokio::spawn(async move {
        let _ = connection.await; // its streams tell
    });
    Ok(sender)
}

/// One call: commands out, replies back in their order.
struct Stream {
    sender: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    replies: Option<RecvStream>,
    partial: BytesMut,
}

impl Stream {
    async fn open(connection: &SendRequest<Bytes>, target: &str) -> Result<Self, Failure> {
        let mut connection = connection.clone().ready().await?;
        let request = Request::post(format!("http://{target}{METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, sender) = connection.send_request(request, false)?;
        Ok(Stream {
            sender,
            response: Some(response),
            replies: None,
            partial: BytesMut::new(),
        })
    }

    /// Keep `in_flight` commands unanswered until all are answered; how long each took.
    async fn exchange(
        &mut self,
        commands: usize,
        in_flight: usize,
        command: impl Fn(usize) -> Bytes,
        mut on_reply: impl FnMut(&[u8]),
    ) -> Result<Vec<Duration>, Failure> {
        let mut sent_at = VecDeque::with_capacity(in_flight);
        let (mut sent, mut waits) = (0, Vec::with_capacity(commands));
        while waits.len() < commands {
            let room = in_flight.min(commands - waits.len()) - sent_at.len().min(in_flight);
            let room = room.min(commands - sent);
            if room > 0 {
                let now = Instant::now();
                let mut data = BytesMut::new();
                for index in sent..sent + room {
                    data.put(command(index));
                    sent_at.push_back(now);
                }
                sent += room;
                self.sender.send_data(data.freeze(), false)?;
            }
            self.receive(&mut sent_at, &mut waits, &mut on_reply)
                .await?;
        }
        Ok(waits)
    }

    /// Send each command when it is due, whatever has been answered; how long each took from then.
    async fn follow(
        &mut self,
        commands: usize,
        mut due: UnboundedReceiver<Instant>,
        command: impl Fn(usize) -> Bytes,
        mut on_reply: impl FnMut(&[u8]),
    ) -> Result<Vec<Duration>, Failure> {
        let mut due_at = VecDeque::new();
        let (mut sent, mut waits) = (0, Vec::with_capacity(commands));
        while waits.len() < commands {
            tokio::select! {
                Some(first) = due.recv() => {
                    let mut data = BytesMut::new();
                    let mut next = Some(first);
                    while let Some(at) = next {
                        data.put(command(sent));
                        due_at.push_back(at);
                        sent += 1;
                        next = due.try_recv().ok();
                    }
                    self.sender.send_data(data.freeze(), false)?;
                }
                received = self.receive(&mut due_at, &mut waits, &mut on_reply) => received?,
            }
        }
        Ok(waits)
    }

    async fn receive(
        &mut self,
        sent_at: &mut VecDeque<Instant>,
        waits: &mut Vec<Duration>,
        on_reply: &mut impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        if let Some(response) = self.response.as_mut() {
            let response = response.await?;
            self.replies = Some(response.into_body());
            self.response = None;
        }
        let replies = self.replies.as_mut().ok_or("no answer")?;
        let Some(data) = replies.data().await else {
            let trailers = replies.trailers().await?;
            return Err(format!("the stream ended early: {trailers:?}").into());
        };
        let data = data?;
        replies.flow_control().release_capacity(data.len())?;
        self.partial.put(data);
        let now = Instant::now();
        while let Some(length) = self.partial.get(1..PREFIX_BYTES) {
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
            if self.partial.len() < PREFIX_BYTES + length {
                break;
            }
            on_reply(&self.partial[PREFIX_BYTES..PREFIX_BYTES + length]);
            self.partial.advance(PREFIX_BYTES + length);
            let sent_at = sent_at.pop_front().ok_or("a reply to nothing")?;
            waits.push(now - sent_at);
        }
        Ok(())
    }
}

fn deposit(account: u64) -> Bytes {
    let mut command = BytesMut::new();
    command.put_u8(0x08);
    put_varint(&mut command, account);
    command.put_slice(&[0x10, 0x01, 0x1a, 11]);
    command.put_slice(b"random-uuid");
    framed(|message| {
        message.put_u8(0x12);
        put_varint(message, command.len() as u64);
        message.put_slice(&command);
    })
}

fn framed(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut message = BytesMut::new();
    write(&mut message);
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

fn put_varint(to: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        to.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8(number as u8);
}
