"""Models: one for each agent."""

from gateway import MODEL, both, strictly
from openai import NotFoundError
from openai.types import Model


@both
class Models:
    async def test_models_are_listed(self):
        page = await self.api.models.list()
        listed = [model async for model in self.api.models.list()]
        self.assertEqual(page.object, "list")
        self.assertIn(MODEL, [model.id for model in listed])
        self.assertEqual([model.id for model in page.data], [model.id for model in listed])
        for model in listed:
            strictly(self, Model, model.to_dict())

    async def test_a_model_is_retrieved(self):
        model = await self.api.models.retrieve(MODEL)
        self.assertEqual((model.id, model.object, model.owned_by), (MODEL, "model", "plugway"))
        listed = [one async for one in self.api.models.list() if one.id == MODEL]
        self.assertEqual([model], listed)

    async def test_an_unknown_model_is_not_found(self):
        call = self.api.models.retrieve("nobody")
        await self.refused(NotFoundError, "model", call, code="model_not_found", type="invalid_request_error")
