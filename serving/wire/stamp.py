"""The receipts of answers, of which those of a batch share what they can."""

from serving.aggregator import Answer
from serving.feedback import subject
from serving.receipts import Page, Receipts, Subject
from serving.records import Counted


class Stamp:
    """Makes receipts; none without `receipts`. Answers of a batch come one right after the other."""

    def __init__(self, receipts: Receipts | None) -> None:
        self._receipts = receipts
        self._counted: Counted | None = None
        self._page: Page | None = None
        self._subject = Subject("", 0, 0)

    def receipt(self, answer: Answer) -> bytes:
        """Of this answer, b"" where the server gives none."""
        if self._receipts is None:
            return b""
        page = self._page_of(answer, self._receipts)
        alike = answer.alike
        head = page.heads.get(alike)
        if head is None:
            head = page.heads[alike] = page.head(answer.rows, answer.cost_usd)
        return self._receipts.signed(head, page.rows(answer.start, answer.stop))

    def of_rows(self, answer: Answer) -> list[bytes]:
        """Of all rows of its batch, where each is an answer of its own and all fared alike; [] where the server gives none."""
        if self._receipts is None:
            return []
        page = self._page_of(answer, self._receipts)
        if page.single is None:
            page.single = self._receipts.of_rows(page.head(1, answer.cost_usd), page)
        return page.single

    def _page_of(self, answer: Answer, receipts: Receipts) -> Page:
        if self._page is None or answer.counted is not self._counted:
            if answer.live.digest != self._subject.digest:
                self._subject = subject(answer.live)
            self._counted = counted = answer.counted
            self._page = receipts.page(self._subject, counted.policy, counted.result)
        return self._page
