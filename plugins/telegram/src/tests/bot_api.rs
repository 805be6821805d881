//! A Bot API that keeps its chats, refuses what Telegram refuses, and fails on demand.

use super::reader::read;
use crate::chunk::units;
use plugway_sdk::{
    Failure, Response, TaskId, http,
    mock::{Mock, Outgoing, Script},
};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    rc::Rc,
    time::{Duration, SystemTime},
};

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// 429 with this many seconds.
    Flood(u64),
    /// 502, and nothing was done.
    Server,
    /// No connection.
    Unreachable,
    /// The connection broke before the server did anything.
    CutBefore,
    /// The connection broke after the server had done it.
    CutAfter,
    /// No answer in time, though the server has done it.
    TimeoutAfter,
    /// 400 or 403 with a description.
    Refuse(u16, &'static str),
    /// A page of something in between, and nothing was done.
    Page(u16),
    /// It was done, and the answer is spoilt on its way.
    Spoilt,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) id: i64,
    pub(super) chat: i64,
    pub(super) visible: String,
    pub(super) body: Value,
    pub(super) deleted: bool,
    pub(super) edits: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Called {
    pub(super) method: String,
    pub(super) body: Value,
    pub(super) at: SystemTime,
}

type Plan = Box<dyn FnMut(usize, &Called) -> Option<Fault>>;

#[derive(Default)]
pub(super) struct World {
    pub(super) messages: Vec<Message>,
    pub(super) calls: Vec<Called>,
    pub(super) threads: BTreeSet<i64>,
    /// Sends whose success nobody was told of.
    pub(super) orphans: BTreeSet<i64>,
    plan: Option<Plan>,
    last_id: i64,
}

/// The server, the host, and a bot between them.
pub(super) struct Stage {
    pub(super) mock: Mock,
    pub(super) world: Rc<RefCell<World>>,
}

impl Stage {
    pub(super) fn new(config: Value) -> Self {
        let mock = Mock::new();
        mock.config(config);
        mock.secret("bot_token", "42:secret");
        mock.secret("webhook_secret", "s3cret");
        mock.callback_url_configured(true);
        let world = Rc::new(RefCell::new(World { last_id: 100, ..World::default() }));
        let server = world.clone();
        mock.outgoing(move |call| server.borrow_mut().answer(call));
        Self { mock, world }
    }

    /// From now on the n-th call (from 0) may go wrong.
    pub(super) fn plan(&self, plan: impl FnMut(usize, &Called) -> Option<Fault> + 'static) {
        self.world.borrow_mut().plan = Some(Box::new(plan));
    }

    pub(super) fn fail_call(&self, number: usize, fault: Fault) {
        self.plan(move |n, _| (n == number).then_some(fault));
    }

    pub(super) fn fail_method(&self, method: &'static str, fault: Fault) {
        self.plan(move |_, call| (call.method == method).then_some(fault));
    }

    /// A message comes in, and becomes a task with this script.
    pub(super) fn ask(&self, chat: &Value, script: Script) -> TaskId {
        self.mock.agent(move |_| script.clone());
        self.webhook(&update(7, chat, "a question"));
        self.mock.submissions().last().expect("the message became a task").task.clone()
    }

    pub(super) fn webhook(&self, update: &Value) -> plugway_sdk::mock::Answer {
        let call = self.mock.post("/webhook").header("X-Telegram-Bot-Api-Secret-Token", "s3cret");
        call.json(update).handle(&crate::Telegram)
    }

    /// Delivers once; it is to be tried again after this time, for this reason.
    #[track_caller]
    pub(super) fn assert_retry(&self, task: &TaskId, pause: Duration, why: &str) {
        match self.mock.deliver(&crate::Telegram, task) {
            Err(Failure::Retry { after, reason }) => {
                assert!(after == pause && reason.contains(why), "{after:?}: {reason}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Delivers as the host does: again after a failure or a crash, which comes after so many imports each time.
    pub(super) fn deliver(&self, task: &TaskId, kills: &[usize]) -> Result<(), Failure> {
        let mut kills = kills.iter().copied();
        for _ in 0..100 {
            let lives_for = kills.next().unwrap_or(usize::MAX);
            match self.mock.deliver_and_kill(&crate::Telegram, task, lives_for) {
                None => self.note_orphan(task),
                Some(Err(Failure::Retry { after, .. })) => self.mock.advance(after),
                Some(outcome) => return outcome,
            }
        }
        panic!("delivered a hundred times without an end");
    }

    /// The host died with a message on its way: if it arrived, nobody knows its id.
    fn note_orphan(&self, task: &TaskId) {
        let page: Value = self.mock.stored(&format!("delivery/{task}")).unwrap_or_default();
        if page["sending"] == true {
            let mut world = self.world.borrow_mut();
            let known = |id: i64| {
                page["sent"].as_array().is_some_and(|sent| sent.iter().any(|sent| sent["id"] == id))
            };
            let lost: Vec<i64> =
                world.messages.iter().map(|message| message.id).filter(|id| !known(*id)).collect();
            world.orphans.extend(lost);
        }
    }

    /// What one sees in the chat, without the copies of which nobody could know.
    pub(super) fn texts(&self) -> Vec<String> {
        let world = self.world.borrow();
        let seen =
            world.messages.iter().filter(|message| !message.deleted && !world.orphans.contains(&message.id));
        seen.map(|message| message.visible.clone()).collect()
    }

    pub(super) fn calls(&self, method: &str) -> Vec<Called> {
        let world = self.world.borrow();
        world.calls.iter().filter(|call| call.method == method).cloned().collect()
    }

    pub(super) fn maybe_twice(&self, task: &TaskId) -> u64 {
        let page: Value = self.mock.stored(&format!("delivery/{task}")).unwrap_or_default();
        page["maybe_twice"].as_u64().unwrap_or_default()
    }
}

pub(super) fn private() -> Value {
    json!({"id": 5, "type": "private"})
}

pub(super) fn group() -> Value {
    json!({"id": -100, "type": "supergroup"})
}

pub(super) fn update(id: i64, chat: &Value, text: &str) -> Value {
    json!({"update_id": id, "message": {
        "message_id": 11, "from": {"id": 5, "is_bot": false, "username": "ada"}, "chat": chat, "text": text,
    }})
}

fn refuse(code: u16, description: &str) -> Response {
    Response::json(code, &json!({"ok": false, "error_code": code, "description": description}))
}

impl World {
    fn answer(&mut self, call: &Outgoing) -> Result<Response, http::Error> {
        let url = call.url.strip_prefix("https://api.telegram.org/bot{secret:bot_token}/");
        let method = url.unwrap_or_else(|| panic!("a call to {}", call.url)).to_owned();
        let called = Called { method, body: call.json(), at: call.at };
        let number = self.calls.len();
        self.calls.push(called.clone());
        let fault = self.plan.as_mut().and_then(|plan| plan(number, &called));
        let cut = || Err(http::Error::Interrupted("connection reset".into()));
        match fault {
            None => Ok(self.carry_out(&called)),
            Some(Fault::Flood(seconds)) => Ok(Response::json(
                429,
                &json!({"ok": false, "error_code": 429, "description": format!("Too Many Requests: retry after {seconds}"),
                        "parameters": {"retry_after": seconds}}),
            )),
            Some(Fault::Server) => Ok(Response::text_body(502, "<html>Bad Gateway</html>")),
            Some(Fault::Page(status)) => Ok(Response::text_body(status, "<html>No</html>")),
            Some(Fault::Spoilt) => {
                self.carry_out(&called);
                Ok(Response::text_body(200, r#"{"ok":true,"result":{"message_id":[redacted]}}"#))
            }
            Some(Fault::Unreachable) => Err(http::Error::Unreachable("connection refused".into())),
            Some(Fault::CutBefore) => cut(),
            Some(Fault::CutAfter) => {
                self.carry_out_unseen(&called);
                cut()
            }
            Some(Fault::TimeoutAfter) => {
                self.carry_out_unseen(&called);
                Err(http::Error::Timeout)
            }
            Some(Fault::Refuse(code, description)) => Ok(refuse(code, description)),
        }
    }

    fn carry_out_unseen(&mut self, call: &Called) {
        let before = self.messages.len();
        self.carry_out(call);
        if self.messages.len() > before {
            self.orphans.insert(self.last_id);
        }
    }

    fn carry_out(&mut self, call: &Called) -> Response {
        let ok = |result: Value| Response::json(200, &json!({"ok": true, "result": result}));
        let body = &call.body;
        let chat = body["chat_id"].as_i64().expect("every call names a chat");
        if let Some(thread) = body["message_thread_id"].as_i64()
            && !self.threads.contains(&thread)
        {
            return refuse(400, "Bad Request: message thread not found");
        }
        if call.method == "sendChatAction" {
            return ok(true.into());
        }
        if call.method == "deleteMessage" {
            return match self.find(chat, body) {
                Some(message) => {
                    message.deleted = true;
                    ok(true.into())
                }
                None => refuse(400, "Bad Request: message to delete not found"),
            };
        }
        let text = body["text"].as_str().expect("a text");
        let visible = match body["parse_mode"].as_str() {
            None => text.to_owned(),
            Some("MarkdownV2") => match read(text) {
                Ok(read) => read.visible,
                Err(problem) => return refuse(400, &format!("Bad Request: can't parse entities: {problem}")),
            },
            Some(other) => panic!("parse mode {other}"),
        };
        let visible = visible.trim().to_owned();
        assert!(units(text) <= 4096, "{} units are sent", units(text));
        if visible.is_empty() {
            return refuse(400, "Bad Request: message text is empty");
        }
        match call.method.as_str() {
            "sendMessage" => {
                self.last_id += 1;
                let id = self.last_id;
                self.messages.push(Message {
                    id,
                    chat,
                    visible,
                    body: body.clone(),
                    deleted: false,
                    edits: 0,
                });
                ok(json!({"message_id": id, "chat": {"id": chat}, "text": text}))
            }
            "editMessageText" => match self.find(chat, body) {
                None => refuse(400, "Bad Request: message to edit not found"),
                Some(message)
                    if message.visible == visible && message.body["parse_mode"] == body["parse_mode"] =>
                {
                    refuse(
                        400,
                        "Bad Request: message is not modified: specified new message content and reply markup are exactly the same",
                    )
                }
                Some(message) => {
                    message.visible = visible;
                    message.body["parse_mode"] = body["parse_mode"].clone();
                    message.edits += 1;
                    ok(json!({"message_id": message.id}))
                }
            },
            "sendMessageDraft" => ok(true.into()),
            other => panic!("no method {other}"),
        }
    }

    fn find(&mut self, chat: i64, body: &Value) -> Option<&mut Message> {
        let id = body["message_id"].as_i64();
        self.messages
            .iter_mut()
            .find(|message| Some(message.id) == id && message.chat == chat && !message.deleted)
    }
}

/// A script that says the words of a text one by one, at a pace.
pub(super) fn words(text: &str, pace_ms: u64) -> Script {
    let script = Script::new().started().every(Duration::from_millis(pace_ms));
    script.chunks(text.split_inclusive(' ')).completed(text)
}

/// Plain words, numbered, of about this many units.
pub(super) fn long_text(length: usize) -> String {
    let mut text = String::new();
    let mut number = 0;
    while text.len() < length {
        number += 1;
        text.push_str(&format!("word{number}"));
        text.push(if number % 97 == 0 { '\n' } else { ' ' });
    }
    text.trim_end().to_owned()
}
