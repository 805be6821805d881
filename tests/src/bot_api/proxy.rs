//! What the proxy does with a call: record, fail on purpose, check, pass on, keep the outcome. And pushes the other way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::chats::{Chats, Message, chat};
use super::faults::{Fault, Faults, WRITES};
use crate::test_api::TestApi;

/// Pause before a push is delivered again. The real one begins at once and doubles from 2 s.
const REDELIVERY: Duration = Duration::from_millis(200);

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with this status.
    Answered(u16),
    /// It came while its chat was under flood control, and was answered with another 429.
    Impatient,
    CutBefore,
    CutAfter,
}

/// A call of a bot.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    pub method: String,
    pub chat: Option<i64>,
    pub body: Value,
    pub outcome: Outcome,
}

/// An update on its way to the bot's webhook.
#[derive(Debug, Clone)]
pub struct Push {
    pub update: Value,
    /// Statuses of the answers so far; none where there was no answer.
    pub tries: Vec<Option<u16>>,
    /// The answer that ended it: the first 2xx.
    pub answer: Option<Value>,
}

/// Where updates are pushed to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) secret: String,
}

/// How a call goes back to its connection.
pub(super) enum Reply {
    Answer(Response<Full<Bytes>>),
    /// Not at all: the connection is cut.
    Cut,
    /// As the last one before connections are refused for so long.
    LastAnswer(Response<Full<Bytes>>, Duration),
}

#[derive(Debug, Default)]
struct Record {
    calls: Vec<Call>,
    chats: Chats,
}

impl Record {
    fn note(&mut self, method: &str, body: Value, outcome: Outcome) {
        let (method, chat) = (method.to_owned(), chat(&body));
        self.calls.push(Call { at: Instant::now(), method, chat, body, outcome });
    }
}

#[derive(Debug)]
pub(super) struct Proxy {
    token: String,
    upstream: TestApi,
    client: reqwest::Client,
    faults: Mutex<Faults>,
    /// Held while a call is carried out, so that the order of the record is the server's.
    record: Mutex<Record>,
    pushes: Mutex<Vec<Push>>,
    target: Mutex<Option<Target>>,
    deliveries: Mutex<JoinSet<()>>,
}

impl Proxy {
    pub(super) async fn start(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            upstream: TestApi::start(token).await,
            client: crate::client::plain(),
            faults: Mutex::default(),
            record: Mutex::default(),
            pushes: Mutex::default(),
            target: Mutex::default(),
            deliveries: Mutex::default(),
        }
    }

    pub(super) fn upstream(&self) -> &TestApi {
        &self.upstream
    }

    pub(super) async fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().await
    }

    pub(super) async fn push_to(&self, target: Target) {
        *self.target.lock().await = Some(target);
    }

    pub(super) async fn pushes(&self) -> Vec<Push> {
        self.pushes.lock().await.clone()
    }

    pub(super) async fn calls(&self) -> Vec<Call> {
        self.record.lock().await.calls.clone()
    }

    pub(super) async fn shown(&self, chat: i64) -> Vec<Message> {
        self.record.lock().await.chats.of(chat)
    }

    /// Checks that the server keeps the same messages as this record.
    pub(super) async fn agreed(&self) {
        let record = self.record.lock().await;
        let mut kept = self.upstream.sent().await;
        kept.sort_unstable();
        assert_eq!(record.chats.all(), kept, "the proxy and telegram-test-api disagree");
    }

    pub(super) async fn handle(self: &Arc<Self>, request: Request<Incoming>) -> Reply {
        let path = request.uri().path().to_owned();
        let Ok(body) = request.into_body().collect().await else { return Reply::Cut };
        let body = body.to_bytes();
        if path == "/push" {
            self.push(&body).await;
            return Reply::Answer(answer(200, &json!({})));
        }
        let bot = path.strip_prefix("/bot").and_then(|rest| rest.split_once('/'));
        let Some((token, method)) = bot else { return Reply::Answer(refusal(404, "Not Found")) };
        if token != self.token {
            return Reply::Answer(refusal(401, "Unauthorized"));
        }
        match serde_json::from_slice(&body) {
            Ok(body) => self.call(method, body).await,
            Err(_) if body.is_empty() => self.call(method, json!({})).await,
            Err(_) => Reply::Answer(refusal(400, "Bad Request: this server of a test reads JSON only")),
        }
    }

    async fn call(&self, method: &str, body: Value) -> Reply {
        let mut record = self.record.lock().await;
        let (outcome, reply) = match impatient(&record.chats, method, &body) {
            Some(seconds) => (Outcome::Impatient, Reply::Answer(flood_control(seconds))),
            None => {
                let fault = self.faults.lock().await.next(method);
                self.carry_out(&mut record.chats, method, &body, fault).await
            }
        };
        record.note(method, body, outcome);
        reply
    }

    /// Carries out the call that a bot answered a push with, if it did; its result goes nowhere.
    async fn call_in_answer(&self, mut answer: Value) {
        let Some(method) = answer.get("method").and_then(Value::as_str).map(str::to_owned) else { return };
        if let Some(fields) = answer.as_object_mut() {
            fields.remove("method");
        }
        let mut record = self.record.lock().await;
        let (outcome, _) = self.carry_out(&mut record.chats, &method, &answer, None).await;
        record.note(&method, answer, outcome);
    }

    async fn carry_out(
        &self,
        chats: &mut Chats,
        method: &str,
        body: &Value,
        fault: Option<Fault>,
    ) -> (Outcome, Reply) {
        let answered = |status, answer| (Outcome::Answered(status), Reply::Answer(answer));
        match fault {
            Some(Fault::FloodControl(seconds)) => {
                let end = Instant::now() + Duration::from_secs(seconds);
                chats.paused.extend(chat(body).map(|chat| (chat, end)));
                return answered(429, flood_control(seconds));
            }
            Some(Fault::Status(status)) => {
                let page = Full::from("<html>an error page of a gateway</html>");
                let answer =
                    Response::builder().status(status).body(page).expect("a status of a fault is valid");
                return answered(status, answer);
            }
            Some(Fault::Refused(reason)) => {
                return answered(400, refusal(400, &format!("Bad Request: {reason}")));
            }
            Some(Fault::CutBefore) => return (Outcome::CutBefore, Reply::Cut),
            None | Some(Fault::CutAfter | Fault::ClosedAfter(_)) => {}
        }
        if let Err(reason) = chats.objection(method, body) {
            return answered(400, refusal(400, &format!("Bad Request: {reason}")));
        }
        let (status, result) = self.result(method, body).await;
        chats.apply(method, body, &result["result"]);
        let answer = answer(status, &result);
        match fault {
            Some(Fault::CutAfter) => (Outcome::CutAfter, Reply::Cut),
            Some(Fault::ClosedAfter(time)) => (Outcome::Answered(status), Reply::LastAnswer(answer, time)),
            _ => answered(status, answer),
        }
    }

    async fn result(&self, method: &str, body: &Value) -> (u16, Value) {
        match method {
            "sendChatAction" | "sendMessageDraft" | "setMessageReaction" | "setMyCommands" => {
                (200, json!({ "ok": true, "result": true }))
            }
            _ => match self.upstream.call(method, body).await {
                (200, mut result) => {
                    if method == "editMessageText" {
                        let (id, chat) = (&body["message_id"], &body["chat_id"]);
                        result["result"] = json!({ "message_id": id, "date": 0, "chat": { "id": chat }, "text": body["text"] });
                    }
                    let status = result["error_code"].as_u64().and_then(|code| u16::try_from(code).ok());
                    (status.unwrap_or(200), result)
                }
                (_, _) => (
                    404,
                    json!({ "ok": false, "error_code": 404, "description": "Not Found: method not found" }),
                ),
            },
        }
    }

    /// Takes an update from the server, and delivers it to the bot's webhook until that answers with 2xx.
    async fn push(self: &Arc<Self>, body: &Bytes) {
        let mut update: Value = serde_json::from_slice(body).expect("telegram-test-api pushes JSON");
        if let Some(message) = update["message"].as_object_mut() {
            message.remove("botToken");
        }
        let mut pushes = self.pushes.lock().await;
        let index = pushes.len();
        // The server gives messages that overlap the same number.
        update["update_id"] = json!(10_000 + index);
        pushes.push(Push { update: update.clone(), tries: Vec::new(), answer: None });
        // Not kept alive by what it owns itself.
        let proxy = Arc::downgrade(self);
        self.deliveries.lock().await.spawn(async move {
            while let Some(proxy) = proxy.upgrade() {
                if proxy.deliver(index, &update).await {
                    return;
                }
                drop(proxy);
                sleep(REDELIVERY).await;
            }
        });
    }

    /// One try to deliver a push; true once it is taken.
    async fn deliver(&self, index: usize, update: &Value) -> bool {
        let target = self.target.lock().await.clone();
        let answer = match target {
            Some(target) => post(&self.client, &target, update).await,
            None => None,
        };
        self.pushes.lock().await[index].tries.push(answer.as_ref().map(|(status, _)| *status));
        let Some((200..=299, answer)) = answer else { return false };
        self.call_in_answer(answer.clone()).await;
        self.pushes.lock().await[index].answer = Some(answer);
        true
    }
}

/// One try; none if there was no answer.
async fn post(client: &reqwest::Client, target: &Target, update: &Value) -> Option<(u16, Value)> {
    let request =
        client.post(&target.url).header("x-telegram-bot-api-secret-token", &target.secret).json(update);
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.json().await.unwrap_or_default()))
}

/// Seconds that the chat of this call stays under flood control, if it is.
fn impatient(chats: &Chats, method: &str, body: &Value) -> Option<u64> {
    let chat = chat(body).filter(|_| WRITES.contains(&method))?;
    let left = chats.paused.get(&chat)?.checked_duration_since(Instant::now())?;
    Some(left.as_secs() + 1)
}

fn answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::from(body.to_string()))
        .expect("the head is valid")
}

fn refusal(status: u16, description: &str) -> Response<Full<Bytes>> {
    answer(status, &json!({ "ok": false, "error_code": status, "description": description }))
}

fn flood_control(seconds: u64) -> Response<Full<Bytes>> {
    let description = format!("Too Many Requests: retry after {seconds}");
    let parameters = json!({ "retry_after": seconds });
    answer(
        429,
        &json!({ "ok": false, "error_code": 429, "description": description, "parameters": parameters }),
    )
}
