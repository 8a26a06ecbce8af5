//! A call's answer as an HTTP/2 body: data while there is some, trailers at the end.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::SendStream;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::framing::{put_message, ACCEPTED};
use crate::refusal::{ok, Refusal};

/// What a call does next.
pub enum Step {
    Data(Bytes),
    End(HeaderMap),
}

/// A call that is served: it reads, answers and ends by being polled, in its stream's own task.
pub trait Steps: Send {
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step>;

    /// Take what has arrived, without reading it: the client doesn't take its answers now.
    fn keep(&mut self, cx: &mut Context<'_>);
}

/// The answer to a call with one message, or a refusal.
pub struct Once {
    message: Option<Bytes>,
    trailers: HeaderMap,
}

impl Once {
    pub fn message(message: &impl prost::Message) -> Self {
        let mut framed = BytesMut::with_capacity(message.encoded_len() + 5);
        put_message(&mut framed, |outbox| message.encode_raw(outbox));
        Once {
            message: Some(framed.freeze()),
            trailers: ok(),
        }
    }

    pub fn refusal(refusal: &Refusal) -> Self {
        Once {
            message: None,
            trailers: refusal.trailers(),
        }
    }
}

impl Steps for Once {
    fn poll_step(&mut self, _: &mut Context<'_>) -> Poll<Step> {
        Poll::Ready(match self.message.take() {
            Some(message) => Step::Data(message),
            None => Step::End(std::mem::take(&mut self.trailers)),
        })
    }

    fn keep(&mut self, _: &mut Context<'_>) {}
}

/// The answer's side of a call.
pub struct Answer {
    reply: SendResponse<Bytes>,
    /// Once the answer has begun.
    data: Option<SendStream<Bytes>>,
}

impl Answer {
    pub fn new(reply: SendResponse<Bytes>) -> Self {
        Answer { reply, data: None }
    }

    /// Serve a call; its trailers, or None when its client has gone. The answer's headers leave
    /// with its first message, or with its end.
    pub async fn serve(
        &mut self,
        opening: impl Future<Output = Box<dyn Steps>>,
    ) -> Option<HeaderMap> {
        let reply = &mut self.reply;
        let mut opening = pin!(opening);
        let mut call = poll_fn(|cx| match opening.as_mut().poll(cx) {
            Poll::Ready(call) => Poll::Ready(Some(call)),
            Poll::Pending => reply.poll_reset(cx).map(|_| None),
        })
        .await?;
        let first = poll_fn(|cx| match call.poll_step(cx) {
            Poll::Ready(step) => Poll::Ready(Some(step)),
            Poll::Pending => reply.poll_reset(cx).map(|_| None),
        })
        .await?;
        match first {
            Step::End(trailers) => Some(trailers),
            Step::Data(first) => {
                let begun = reply.send_response(head(HeaderMap::with_capacity(2)), false);
                pour(self.data.insert(begun.ok()?), call.as_mut(), first).await
            }
        }
    }

    /// End it so. Who has gone doesn't hear it.
    pub fn end(mut self, trailers: HeaderMap) {
        let _ = match self.data.as_mut() {
            Some(data) => data.send_trailers(trailers),
            None => self.reply.send_response(head(trailers), true).map(|_| ()),
        };
    }

    /// An answer to what is no gRPC call.
    pub fn bare(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        let _ = self.reply.send_response(response, true);
    }
}

fn head(mut headers: HeaderMap) -> Response<()> {
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED));
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}

/// Send data as the client takes it, to the call's end; None when the client has gone.
async fn pour(
    data: &mut SendStream<Bytes>,
    call: &mut dyn Steps,
    first: Bytes,
) -> Option<HeaderMap> {
    let mut waiting = Some(first);
    data.reserve_capacity(1);
    poll_fn(|cx| loop {
        if data.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        if waiting.is_some() {
            // any room will do: h2 holds the rest, and no more is made before that has left
            while data.capacity() == 0 {
                match data.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(None),
                    Poll::Pending => {
                        call.keep(cx);
                        return Poll::Pending;
                    }
                }
            }
            let sent = waiting.take().map(|bytes| data.send_data(bytes, false));
            if sent.is_some_and(|sent| sent.is_err()) {
                return Poll::Ready(None);
            }
        }
        match call.poll_step(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Step::End(trailers)) => return Poll::Ready(Some(trailers)),
            Poll::Ready(Step::Data(next)) => {
                data.reserve_capacity(1);
                waiting = Some(next);
            }
        }
    })
    .await
}
