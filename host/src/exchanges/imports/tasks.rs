//! `tasks`: submitting work and following it. A plugin sees its own tasks and sessions only.

use crate::domain::{
    Cursor, DeliveryOrder, InvalidId, Moment, Position, SessionId, TaskId, TaskRecord, TaskStatus, millis,
};
use crate::exchanges::bindings::tasks;
use crate::exchanges::exchange::{Exchange, Live, waited};
use crate::store::StoreError;
use crate::tasks::{SubmitError, SubmitRequest, Tasks};

impl Live {
    /// A task's state, if the task is the plugin's.
    async fn own_task(&mut self, task: TaskId) -> Result<Option<TaskStatus>, StoreError> {
        let status = self.services.tasks.status(task).await?;
        Ok(status.filter(|status| status.adapter == **self.plugin.name()))
    }

    /// The task's id, if it is the plugin's; asks the store only where it is not known already.
    async fn own_task_id(&mut self, task: &str) -> Result<Option<TaskId>, StoreError> {
        let Ok(id) = task.parse::<TaskId>() else { return Ok(None) };
        if !self.own_tasks.contains(&id) {
            if self.own_task(id).await?.is_none() {
                return Ok(None);
            }
            self.own_tasks.insert(id);
        }
        Ok(Some(id))
    }

    /// All that is known about a task, if it is the plugin's.
    async fn own_record(&mut self, task: &str) -> Result<Option<TaskRecord>, StoreError> {
        let Ok(id) = task.parse::<TaskId>() else { return Ok(None) };
        let record = self.services.tasks.task(id).await?;
        Ok(record.filter(|record| record.adapter == **self.plugin.name()))
    }

    async fn follow(&mut self, task: &str, after: Option<String>) -> Result<(), tasks::Error> {
        let unknown = || tasks::Error::NotFound(format!("no task {task:?} of this plugin"));
        let id = self.own_task_id(task).await.map_err(unavailable)?.ok_or_else(unknown)?;
        let after = after.map(|cursor| cursor.parse::<Cursor>()).transpose().map_err(invalid)?;
        if after.is_some_and(|cursor| cursor.task != id) {
            return Err(tasks::Error::Invalid(format!("the cursor is of another task than {task}")));
        }
        let position = after.map_or(Position::START, |cursor| cursor.position);
        let hub = self.services.hub.clone();
        self.mailbox.follow(&hub, id, position).map_err(tasks::Error::TooMany)
    }

    async fn follow_session(&mut self, session: &str, begin: tasks::Begin) -> Result<(), tasks::Error> {
        let session = SessionId::new(self.plugin.name(), session).map_err(invalid)?;
        let hub = self.services.hub.clone();
        let after = match begin {
            tasks::Begin::Start => None,
            tasks::Begin::Now => hub.session_end(&session).await.map_err(unavailable)?,
            tasks::Begin::Task(task) => {
                let task = task.parse::<TaskId>().map_err(invalid)?;
                Some(Cursor { task, position: Position::START })
            }
            tasks::Begin::After(cursor) => Some(cursor.parse::<Cursor>().map_err(invalid)?),
        };
        if let Some(cursor) = after {
            let status = self.own_task(cursor.task).await.map_err(unavailable)?;
            if status.is_none_or(|status| status.session != session) {
                let why = "the cursor is of no task of this session".to_owned();
                return Err(tasks::Error::Invalid(why));
            }
        }
        self.mailbox.follow_session(&hub, session, after).map_err(tasks::Error::TooMany)
    }
}

impl tasks::Host for Exchange {
    async fn submit(
        &mut self,
        task: tasks::NewTask,
    ) -> wasmtime::Result<Result<tasks::Accepted, tasks::SubmitError>> {
        let live = self.live()?;
        let owner = live.plugin.name().clone();
        let request = SubmitRequest {
            agent: task.agent,
            session: task.session,
            input: task.input,
            deliver: task.deliver.map(|order| DeliveryOrder {
                address: order.address,
                at: match order.at {
                    tasks::Moment::Start => Moment::Start,
                    tasks::Moment::End => Moment::End,
                },
            }),
            idempotency_key: task.idempotency_key,
        };
        let (result, pended) = waited(live.services.tasks.submit(&owner, request)).await;
        if let Ok(submitted) = &result {
            live.own_tasks.insert(submitted.task);
        }
        self.new_step_if(pended);
        Ok(match result {
            Ok(submitted) => Ok(tasks::Accepted {
                task: submitted.task.to_string(),
                session: submitted.session.name().to_owned(),
                duplicate: submitted.duplicate,
            }),
            Err(SubmitError::UnknownAgent(name)) => Err(tasks::SubmitError::UnknownAgent(name)),
            Err(SubmitError::Refused(why)) => Err(tasks::SubmitError::Refused(why)),
            Err(SubmitError::Busy { retry_after }) => Err(tasks::SubmitError::Busy(millis(retry_after))),
            Err(SubmitError::Unavailable(why)) => Err(tasks::SubmitError::Unavailable(why)),
            Err(other) => Err(tasks::SubmitError::Invalid(other.to_string())),
        })
    }

    async fn follow(
        &mut self,
        task: String,
        after: Option<String>,
    ) -> wasmtime::Result<Result<(), tasks::Error>> {
        Ok(self.live()?.follow(&task, after).await)
    }

    async fn follow_session(
        &mut self,
        session: String,
        begin: tasks::Begin,
    ) -> wasmtime::Result<Result<(), tasks::Error>> {
        Ok(self.live()?.follow_session(&session, begin).await)
    }

    async fn cancel(&mut self, task: String) -> wasmtime::Result<Result<bool, tasks::Error>> {
        let live = self.live()?;
        let cancel = async {
            match live.own_task_id(&task).await? {
                Some(id) => live.services.tasks.cancel(id, "cancelled by the adapter").await,
                None => Ok(false),
            }
        };
        let (cancelled, pended) = waited(cancel).await;
        self.new_step_if(pended);
        Ok(cancelled.map_err(unavailable))
    }

    async fn cancel_session(&mut self, session: String) -> wasmtime::Result<Result<u32, tasks::Error>> {
        let live = self.live()?;
        let session = match SessionId::new(live.plugin.name(), &session) {
            Ok(session) => session,
            Err(error) => return Ok(Err(invalid(error))),
        };
        let cancel = live.services.tasks.cancel_session(&session, "cancelled by the adapter");
        let (cancelled, pended) = waited(cancel).await;
        self.new_step_if(pended);
        Ok(cancelled.map_err(unavailable))
    }

    async fn describe(&mut self, task: String) -> wasmtime::Result<Result<Option<String>, tasks::Error>> {
        let live = self.live()?;
        let (record, pended) = waited(live.own_record(&task)).await;
        self.new_step_if(pended);
        let document = record.map(|record| record.map(|record| Tasks::document(&record).to_string()));
        Ok(document.map_err(unavailable))
    }
}

fn unavailable(error: StoreError) -> tasks::Error {
    tasks::Error::Unavailable(error.to_string())
}

fn invalid(error: InvalidId) -> tasks::Error {
    tasks::Error::Invalid(error.to_string())
}
