//! Connections and calls: accept, TLS, HTTP/2, and who serves which method.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream};
use http::{request, Method, Request, StatusCode};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{watch, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::framing::Requests;
use crate::node::{ActiveCall, Node};
use crate::python::Question;
use crate::python_call::{Passed, PythonCall};
use crate::queries::{get_account, get_accounts, unary, BankQueries};
use crate::refusal::{Refusal, DEADLINE_EXCEEDED};
use crate::response::{Answer, Once, Steps};
use crate::streams::{CommandCall, Contract};

const BACKLOG: i32 = 4_096;
/// For TLS, and then for HTTP/2's preface: who connects and says nothing doesn't keep a place.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// No bound of its own: a call that isn't read must not hold up those beside it. What a node keeps
/// unread is bounded by its calls and their windows.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// h2 ends a connection when it holds many small frames that nobody has taken. Calls take theirs at
/// once (`Requests::keep`), so this is only for what one look at the socket brings.
const SMALL_FRAMES_BUDGET: usize = 64 << 20;
/// Calls that were reset before they were looked at. After a pause these may be all of a client's.
const RESET_UNSEEN_MAX: usize = 1_024;
/// Past its deadline a call is ended here, unless its handler has worded that meanwhile.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);
/// After a failed accept (no descriptors left, mostly) there is no use in trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bind and listen. `shared`: other processes may bind the port as well.
pub fn bind(address: SocketAddr, shared: bool) -> std::io::Result<std::net::TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serve until `ending` changes; then connections take no new calls and end with their last one.
pub async fn serve(
    node: Arc<Node>,
    listener: std::net::TcpListener,
    mut ending: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(node.options.max_connections));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return Ok(());
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.changed() => return Ok(()),
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (node, ending) = (node.clone(), ending.clone());
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            if node.tls.is_none() {
                connect(node, stream, ending).await;
            } else if let Ok(Some(stream)) = timeout(HANDSHAKE_TIMEOUT, shake(&node, stream)).await
            {
                connect(node, stream, ending).await;
            }
        });
    }
}

/// The TLS handshake, with the files as they are now. None for a client that fails it.
async fn shake(
    node: &Node,
    stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    // Python looks at the files; the answer says nothing but that it has
    let _ = node.python.ask(Question::Tls, None).await;
    let config = node
        .tls
        .as_ref()?
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    TlsAcceptor::from(config).accept(stream).await.ok()
}

/// One connection, until it ends or, after `ending`, its last call has.
async fn connect<S>(node: Arc<Node>, stream: S, mut ending: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(node.options.max_calls.try_into().unwrap_or(u32::MAX))
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        // counted over a connection's whole life, and refused calls whose client goes on writing
        // are among them; what a reset leaves behind is bounded by the number of calls
        .max_local_error_reset_streams(None);
    let shaken = timeout(HANDSHAKE_TIMEOUT, builder.handshake(stream)).await;
    // a connection's error is its client's affair, here and below
    let Ok(Ok(mut connection)) = shaken else {
        return;
    };
    let _guard = node.begin_connection();
    let keepalive = Duration::from_millis(node.options.keepalive_ms);
    let silent = until_silent(connection.ping_pong(), keepalive);
    tokio::pin!(silent);
    let mut is_ending = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, reply))) => {
                    tokio::spawn(serve_call(node.clone(), request, reply));
                }
                Some(Err(_)) | None => return,
            },
            () = &mut silent => return,
            _ = ending.changed(), if !is_ending => {
                is_ending = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Ask the client again and again whether it is there; over when it doesn't answer in time.
async fn until_silent(pings: Option<PingPong>, interval: Duration) {
    let Some(mut pings) = pings else {
        return;
    };
    loop {
        sleep(interval).await;
        if !matches!(
            timeout(interval, pings.ping(Ping::opaque())).await,
            Ok(Ok(_))
        ) {
            return;
        }
    }
}

async fn serve_call(node: Arc<Node>, request: Request<RecvStream>, reply: SendResponse<Bytes>) {
    let (parts, body) = request.into_parts();
    let mut answer = Answer::new(reply);
    if let Some(status) = no_call(&parts) {
        return answer.bare(status);
    }
    let path = parts.uri.path();
    let admitted = node.admit(path, &parts.headers);
    let guard = match admitted.and_then(|()| node.begin_call()) {
        Ok(guard) => Arc::new(guard),
        Err(refusal) => return answer.end(refusal.trailers()),
    };
    let timeout_s = parts
        .headers
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(read_timeout);
    let requests = Requests::new(body, &parts.headers, node.options.max_message_bytes);
    let served = answer.serve(route(&node, path, requests, timeout_s, &guard));
    let trailers = match timeout_s {
        None => served.await,
        Some(timeout_s) => {
            let most = Duration::from_secs_f64(timeout_s) + DEADLINE_GRACE;
            let late = || Some(Refusal::new(DEADLINE_EXCEEDED, "Deadline Exceeded").trailers());
            timeout(most, served).await.unwrap_or_else(|_| late())
        }
    };
    if let Some(trailers) = trailers {
        answer.end(trailers);
    }
}

/// What to say to a request that is no gRPC call.
fn no_call(parts: &request::Parts) -> Option<StatusCode> {
    let content_type = parts.headers.get(http::header::CONTENT_TYPE);
    if parts.method != Method::POST {
        Some(StatusCode::METHOD_NOT_ALLOWED)
    } else if !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    } else {
        None
    }
}

/// Who serves a call: this edge what is hot and plain, Python's handlers all else.
async fn route(
    node: &Arc<Node>,
    path: &str,
    requests: Requests,
    timeout_s: Option<f64>,
    guard: &Arc<ActiveCall>,
) -> Box<dyn Steps> {
    match path {
        "/gc.garcol.bank.proto.BalanceCommandService/sendCommand" => {
            command(node, Contract::Bank, requests, guard)
        }
        "/ringledger.v1.CommandService/Submit" => command(node, Contract::Submit, requests, guard),
        "/ringledger.v1.CommandService/Execute" => {
            command(node, Contract::Execute, requests, guard)
        }
        _ => {
            let passed = Passed {
                method: path,
                timeout_s,
                guard,
            };
            if let Some(books) = node.books.get() {
                match path {
                    "/gc.garcol.bank.proto.BalanceQueryService/sendQuery" => {
                        return Box::new(BankQueries::new(node, books, requests, guard))
                    }
                    "/ringledger.v1.QueryService/GetAccount" => {
                        return unary(node, books, passed, requests, get_account).await
                    }
                    "/ringledger.v1.QueryService/GetAccounts" => {
                        return unary(node, books, passed, requests, get_accounts).await
                    }
                    _ => {}
                }
            }
            Box::new(PythonCall::open(node, passed, requests, None))
        }
    }
}

fn command(
    node: &Arc<Node>,
    contract: Contract,
    requests: Requests,
    guard: &Arc<ActiveCall>,
) -> Box<dyn Steps> {
    // entered before the look at who leads: the end of a term must miss no stream
    let call = CommandCall::new(node, contract, requests, guard);
    if let Some(refusal) = node.refused() {
        return Box::new(Once::refusal(&refusal));
    }
    if contract != Contract::Execute && node.open_streams() > node.options.max_streams {
        return Box::new(Once::refusal(&node.too_many_streams));
    }
    Box::new(call)
}

/// `grpc-timeout`: at most eight digits and a unit. In seconds.
fn read_timeout(text: &str) -> Option<f64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let unit_s = match unit {
        "H" => 3_600.0,
        "M" => 60.0,
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|count| count * unit_s)
}
