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
        receipts, page = self._receipts, self._page
        if receipts is None:
            return b""
        if page is None or answer.counted is not self._counted:
            if answer.live.digest != self._subject.digest:
                self._subject = subject(answer.live)
            self._counted = counted = answer.counted
            self._page = page = receipts.page(self._subject, counted.policy, counted.result)
        if answer.rows == 1 and answer.counted.spent.alike:
            if page.single is None:
                page.single = receipts.of_rows(page.head(1, answer.cost_usd), page)
            return page.single[answer.start]
        alike = answer.alike
        head = page.heads.get(alike)
        if head is None:
            head = page.heads[alike] = page.head(answer.rows, answer.cost_usd)
        return receipts.signed(head, page.rows(answer.start, answer.stop))
