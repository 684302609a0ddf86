"""A certified threshold for the scores of a scikit-learn classifier, checked on other patients."""

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrignite.functional import (
    clopper_pearson,
    confusion_at,
    num_negatives_needed,
    select_operating_point,
)
from cxrignite.reporting.wording import describe_point

MIN_TNR, CONFIDENCE = 0.95, 0.95


def main() -> None:
    """Fit on a quarter, choose the threshold on one half of the rest, check it on the other."""
    x, y = load_breast_cancer(return_X_y=True)
    y = 1 - y  # scikit-learn has benign as 1; here the disease is the positive class
    x_train, x_rest, y_train, y_rest = train_test_split(
        x, y, train_size=0.25, stratify=y, random_state=0
    )
    x_choose, x_test, y_choose, y_test = train_test_split(
        x_rest, y_rest, train_size=0.5, stratify=y_rest, random_state=0
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression()).fit(x_train, y_train)

    needed = num_negatives_needed(MIN_TNR, CONFIDENCE)
    print(
        f"to certify a TNR of {MIN_TNR}: at least {needed} negatives, none of them a false "
        f"positive; available: {sum(y_choose == 0)}"
    )
    # A certificate needs patients that were not used in training; neither half was.
    point = select_operating_point(
        classifier.predict_proba(x_choose)[:, 1],
        y_choose,
        min_tnr=MIN_TNR,
        min_threshold=0.1,
        confidence=CONFIDENCE,
    )
    print(f"chosen:   {describe_point(point)}")

    found = confusion_at(classifier.predict_proba(x_test)[:, 1], y_test, point.threshold)
    num_negative = found.tn + found.fp
    low, high = clopper_pearson(found.tn, num_negative)
    print(
        f"observed: TNR {found.tnr:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"TPR {found.tpr:.3f} on {num_negative} other negatives and {found.tp + found.fn} other "
        "positives"
    )
    usual = confusion_at(classifier.predict_proba(x_test)[:, 1], y_test, 0.5)
    print(f"at 0.5:   TNR {usual.tnr:.3f}, TPR {usual.tpr:.3f}, not certified")


if __name__ == "__main__":
    main()
